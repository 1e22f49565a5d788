"""Why an engine ended, in one sentence a person can act on, from its exit status and the last lines of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from llb.engine.spec import EXIT_BAD_SPEC, EXIT_LOAD_REJECTED


class FailureKind(StrEnum):
    REJECTED = "refused"  # llama.cpp does not want this file: trying again will not help
    MEMORY = "memory"  # an allocation failed, or the kernel took the process
    CRASHED = "crashed"
    TIMEOUT = "timeout"  # not ready, or not answering, within its deadline


@dataclass(frozen=True)
class FailureDiagnosis:
    kind: FailureKind
    message: str


# "0.00.121.635 E llama_model_load: error loading model: unknown model architecture: 'xyz'"
_LOG_LINE = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) (?P<text>.*)")
_LOG_PREFIX = re.compile(r"^(?:srv|cmn|slot|spec)?\s*[\w~().]+: ")
_DIRECTORY = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^/\\\s'\":]+)+[/\\](?=[^/\\\s])")
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory|failed to allocate|bad_alloc", re.IGNORECASE)
_FATAL_LINE = re.compile(
    r"GGML_ASSERT|GGML_ABORT|what\(\)|terminate called|fatal error|CUDA error|Error:", re.IGNORECASE
)


def diagnose_exit(returncode: int, log_lines: Sequence[str], *, was_ready: bool) -> FailureDiagnosis:
    """The failure of a child that ended by itself; `ready` tells whether it had loaded its model."""
    errors = [text for level, text in map(_parse_log_line, log_lines) if level == "E"]
    short_of_memory = next((text for text in errors if _OUT_OF_MEMORY.search(text)), None)
    if short_of_memory is not None and not (was_ready and returncode >= 0):
        return FailureDiagnosis(
            FailureKind.MEMORY, f"the engine ran out of memory: {_sanitise_message(short_of_memory)}"
        )
    if returncode == EXIT_LOAD_REJECTED:
        reason = _sanitise_message(errors[0]) if errors else "it gave no reason"
        return FailureDiagnosis(FailureKind.REJECTED, f"refused by the engine: {reason}")
    if returncode == EXIT_BAD_SPEC:
        return FailureDiagnosis(FailureKind.CRASHED, "the engine did not understand what it was to run")
    if returncode == -signal.SIGTERM:
        return FailureDiagnosis(FailureKind.CRASHED, "the engine was stopped by somebody else")
    if returncode == -getattr(signal, "SIGKILL", 9):
        return FailureDiagnosis(FailureKind.MEMORY, "the engine was killed (out of memory?)")
    fatal = next((line for line in reversed(log_lines) if _FATAL_LINE.search(line)), None)
    how = f"the engine crashed ({_exit_description(returncode)})"
    return FailureDiagnosis(
        FailureKind.CRASHED, f"{how}: {_sanitise_message(_parse_log_line(fatal)[1])}" if fatal else how
    )


def _parse_log_line(line: str) -> tuple[str, str]:
    """The level and the text of a log line; lines that are not llama.cpp's own have no level."""
    match = _LOG_LINE.match(line)
    return (match["level"], match["text"]) if match else ("", line)


def _sanitise_message(text: str) -> str:
    """`text` without function names and directories: a message to clients must not show where files lie."""
    text = _LOG_PREFIX.sub("", text.strip()).rpartition("error loading model: ")[2]
    return _DIRECTORY.sub("", text).rstrip(". ")[:300]


def _exit_description(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
