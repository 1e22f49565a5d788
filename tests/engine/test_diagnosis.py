"""Diagnosis of a failed engine: kinds, sentences without paths, and what of a log is the cause."""

from __future__ import annotations

import signal

import pytest

from llb.engine.diagnosis import FailureKind, diagnose_exit
from llb.engine.spec import EXIT_BAD_SPEC, EXIT_LOAD_REJECTED


def line(text: str, level: str = "E") -> str:
    return f"0.00.121.635 {level} {text}"


REJECTED = line("llama_model_load: error loading model: unknown model architecture: 'xyz'")
MEMORY = line("ggml_cuda_alloc: allocating 9 MiB on device 0: cudaMalloc failed: out of memory")


@pytest.mark.parametrize(
    ("status", "lines", "was_ready", "kind", "message"),
    [
        (EXIT_LOAD_REJECTED, [line("x: fine", "I"), REJECTED, line("srv load_model: failed")], False,
         FailureKind.REJECTED, "refused by the engine: unknown model architecture: 'xyz'"),
        (EXIT_LOAD_REJECTED, [], False, FailureKind.REJECTED, "refused by the engine: it gave no reason"),
        (EXIT_BAD_SPEC, [], False, FailureKind.CRASHED, "the engine did not understand its specification"),
        # The first reason while loading is memory, whatever follows from it.
        (EXIT_LOAD_REJECTED, [REJECTED, MEMORY], False, FailureKind.MEMORY,
         "the engine ran out of memory: allocating 9 MiB on device 0: cudaMalloc failed: out of memory"),
        (-signal.SIGABRT, [MEMORY], True, FailureKind.MEMORY,
         "the engine ran out of memory: allocating 9 MiB on device 0: cudaMalloc failed: out of memory"),
        # A request that failed for want of memory is not why a loaded engine ended by itself later.
        (1, [MEMORY], True, FailureKind.CRASHED, "the engine crashed (exit status 1)"),
        (-signal.SIGTERM, [], True, FailureKind.KILLED, "the engine was stopped from outside"),
        (-signal.SIGKILL, [], True, FailureKind.KILLED, "the engine was killed (out of memory?)"),
        (-signal.SIGSEGV, [line("x: odd", "W")], True, FailureKind.CRASHED, "the engine crashed (SIGSEGV)"),
        (-63, [], True, FailureKind.CRASHED, "the engine crashed (signal 63)"),
        # The last line that says why.
        (-signal.SIGABRT, ["terminate called after throwing", "/src/ggml.c:12: GGML_ASSERT(x) failed", "bye"],
         True, FailureKind.CRASHED, "the engine crashed (SIGABRT): ggml.c:12: GGML_ASSERT(x) failed"),
    ],
)  # fmt: skip
def test_how_an_engine_ended(
    status: int, lines: list[str], was_ready: bool, kind: FailureKind, message: str
) -> None:
    found = diagnose_exit(status, lines, was_ready=was_ready)
    assert (found.kind, found.message) == (kind, message)
    assert found.message.code


@pytest.mark.parametrize(
    "text",
    [
        "failed to open GGUF file '/home/ann/secret models/m.gguf'",
        "failed to open /home/ann/m.gguf",
        r"failed to open C:\Users\ann\m.gguf",
    ],
)
def test_a_message_names_no_directory(text: str) -> None:
    found = diagnose_exit(
        EXIT_LOAD_REJECTED, [line(f"llama_model_load: error loading model: {text}")], was_ready=False
    )
    assert "m.gguf" in found.message
    assert "ann" not in found.message
    assert "home" not in found.message


def test_a_message_has_a_length() -> None:
    found = diagnose_exit(EXIT_LOAD_REJECTED, [line("f: " + "x" * 9999)], was_ready=False)
    assert len(found.message) < 350
