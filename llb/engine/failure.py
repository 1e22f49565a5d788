"""Why an engine ended, in one sentence a person can act on, from its exit status and the last lines of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from llb.engine.worker import EXIT_BAD_SPEC, EXIT_REFUSED


class FailureKind(StrEnum):
    REFUSED = "refused"  # llama.cpp does not want this file: trying again will not help
    MEMORY = "memory"  # an allocation failed, or the kernel took the process
    CRASHED = "crashed"
    TIMEOUT = "timeout"  # not ready, or not answering, within its deadline


@dataclass(frozen=True)
class Failure:
    kind: FailureKind
    sentence: str


# "0.00.121.635 E llama_model_load: error loading model: unknown model architecture: 'xyz'"
_LINE = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) (?P<text>.*)")
_SPEAKER = re.compile(r"^(?:srv|cmn|slot|spec)?\s*[\w~().]+: ")
_DIRECTORY = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^/\\\s'\":]+)+[/\\](?=[^/\\\s])")
_OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory|failed to allocate|bad_alloc", re.IGNORECASE)
_FATAL = re.compile(
    r"GGML_ASSERT|GGML_ABORT|what\(\)|terminate called|fatal error|CUDA error|Error:", re.IGNORECASE
)


def explain(returncode: int, log: Sequence[str], *, ready: bool) -> Failure:
    """The failure of a child that ended by itself; `ready` tells whether it had loaded its model."""
    errors = [text for level, text in map(_split, log) if level == "E"]
    short_of_memory = next((text for text in errors if _OUT_OF_MEMORY.search(text)), None)
    if short_of_memory is not None and not (ready and returncode >= 0):
        return Failure(FailureKind.MEMORY, f"the engine ran out of memory: {_polish(short_of_memory)}")
    if returncode == EXIT_REFUSED:
        reason = _polish(errors[0]) if errors else "it gave no reason"
        return Failure(FailureKind.REFUSED, f"refused by the engine: {reason}")
    if returncode == EXIT_BAD_SPEC:
        return Failure(FailureKind.CRASHED, "the engine did not understand what it was to run")
    if returncode == -signal.SIGTERM:
        return Failure(FailureKind.CRASHED, "the engine was stopped by somebody else")
    if returncode == -getattr(signal, "SIGKILL", 9):
        return Failure(FailureKind.MEMORY, "the engine was killed (out of memory?)")
    fatal = next((line for line in reversed(log) if _FATAL.search(line)), None)
    how = f"the engine crashed ({_name(returncode)})"
    return Failure(FailureKind.CRASHED, f"{how}: {_polish(_split(fatal)[1])}" if fatal else how)


def _split(line: str) -> tuple[str, str]:
    """The level and the text of a log line; lines that are not llama.cpp's own have no level."""
    match = _LINE.match(line)
    return (match["level"], match["text"]) if match else ("", line)


def _polish(text: str) -> str:
    """`text` without function names and directories: a message to clients must not show where files lie."""
    text = _SPEAKER.sub("", text.strip()).rpartition("error loading model: ")[2]
    return _DIRECTORY.sub("", text).rstrip(". ")[:300]


def _name(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
