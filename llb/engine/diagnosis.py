"""Diagnosis of a failed engine, from its exit status and the last lines of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from llb.engine.spec import EXIT_BAD_SPEC, EXIT_LOAD_REJECTED
from llb.texts.coded_text import CodedText


class FailureKind(StrEnum):
    """Kind of an engine failure.

    REJECTED: llama.cpp cannot load the file, and another attempt will not help. MEMORY: an allocation failed,
    or the kernel killed the process. TIMEOUT: the engine was not ready or did not answer within its deadline.
    KILLED: something outside ended it.
    """

    REJECTED = "refused"
    MEMORY = "memory"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    KILLED = "killed"


class FailureDiagnosis(Struct, frozen=True):
    """Kind of a failure, and a clause that describes it to a person."""

    kind: FailureKind
    message: CodedText


# "0.00.121.635 E llama_model_load: error loading model: unknown model architecture: 'xyz'"
_LOG_LINE = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) (?P<text>.*)")
_LOG_PREFIX = re.compile(r"^(?:srv|cmn|slot|spec)?\s*[\w~().]+: ")
_DIRECTORY = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^/\\\s'\":]+)+[/\\](?=[^/\\\s])")
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory|failed to allocate|bad_alloc", re.IGNORECASE)
_FATAL_LINE = re.compile(
    # A source and a line: how llama.cpp says where and why it aborts.
    r"GGML_ASSERT|GGML_ABORT|\.(?:c|cpp|cu|cuh|m|h|hpp):\d+: |"
    r"what\(\)|terminate called|fatal error|CUDA error|Error:",
    re.IGNORECASE,
)


def diagnose_exit(returncode: int, log_lines: Sequence[str], *, was_ready: bool) -> FailureDiagnosis:
    """Diagnose a worker that was not stopped; `was_ready` is whether it had loaded its model."""
    errors = [text for level, text in map(_parse_log_line, log_lines) if level == "E"]
    memory_error = next((text for text in errors if _OUT_OF_MEMORY.search(text)), None)
    if memory_error is not None and not (was_ready and returncode >= 0):
        return FailureDiagnosis(
            FailureKind.MEMORY,
            CodedText(
                "engine_out_of_memory",
                "the engine ran out of memory: {detail}",
                detail=_sanitise_message(memory_error),
            ),
        )
    if returncode == EXIT_LOAD_REJECTED:
        reason = (
            _sanitise_message(errors[0]) if errors else CodedText("engine_no_reason", "it gave no reason")
        )
        return FailureDiagnosis(
            FailureKind.REJECTED,
            CodedText("engine_refused", "refused by the engine: {cause}", cause=reason),
        )
    if returncode == EXIT_BAD_SPEC:
        return FailureDiagnosis(
            FailureKind.CRASHED,
            CodedText("engine_bad_spec", "the engine did not understand its specification"),
        )
    if returncode == -signal.SIGTERM:
        return FailureDiagnosis(
            FailureKind.KILLED, CodedText("engine_stopped", "the engine was stopped from outside")
        )
    if returncode == -getattr(signal, "SIGKILL", 9):
        return FailureDiagnosis(
            FailureKind.KILLED, CodedText("engine_killed", "the engine was killed (out of memory?)")
        )
    fatal = next((line for line in reversed(log_lines) if _FATAL_LINE.search(line)), None)
    how = _exit_description(returncode)
    message = CodedText("engine_crashed", "the engine crashed ({how})", how=how)
    if fatal is not None:
        detail = _sanitise_message(_parse_log_line(fatal)[1])
        message = CodedText(
            "engine_crashed_with", "the engine crashed ({how}): {detail}", how=how, detail=detail
        )
    return FailureDiagnosis(FailureKind.CRASHED, message)


def _parse_log_line(line: str) -> tuple[str, str]:
    """Return level and text of a log line; the level is empty for lines in another format."""
    match = _LOG_LINE.match(line)
    return (match["level"], match["text"]) if match else ("", line)


def _sanitise_message(text: str) -> str:
    """Remove function names and directories: a message to clients must not reveal paths."""
    text = _LOG_PREFIX.sub("", text.strip()).rpartition("error loading model: ")[2]
    return _DIRECTORY.sub("", text).rstrip(". ")[:300]


def _exit_description(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
