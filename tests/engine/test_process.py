"""Engine process: lifecycle, log and failures, with a fake worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llb.base.lifecycle import IllegalTransition
from llb.base.tasks import TaskSupervisor
from llb.engine import process as process_module
from llb.engine.diagnosis import FailureKind
from llb.engine.process import TRANSITIONS, EngineProcess
from llb.engine.spec import EngineSpec
from llb.errors import EngineFailed
from llb.wire import EngineState
from tests.engine.workers import eventually, fake_worker

DEADLINE_S = 20.0


def spec(**changes: Any) -> EngineSpec:
    values: dict[str, Any] = {
        "model_path": "/nowhere/model.gguf",
        "alias": "m",
        "context_length": 512,
        "slots": 2,
        "batch_tokens": 512,
        "ubatch_tokens": 512,
        "prompt_cache_bytes": 0,
        "threads": 1,
        "api_key": "secret",
    }
    return EngineSpec(**(values | changes))


@pytest.fixture
def make(tasks: TaskSupervisor) -> Callable[..., EngineProcess]:
    def make(*arguments: str, moves: list[EngineState] | None = None) -> EngineProcess:
        return EngineProcess(
            "m",
            tasks=tasks,
            command=fake_worker(*arguments),
            on_transition=lambda old, new: moves.append(new) if moves is not None else None,
        )

    return make


async def test_a_life(make: Callable[..., EngineProcess]) -> None:
    moves: list[EngineState] = []
    engine = make(moves=moves)
    ready = await engine.start(spec(), deadline_s=DEADLINE_S)
    assert (ready.host, ready.context_length, ready.slots) == ("127.0.0.1", 512, 2)
    assert engine.pid is not None
    assert engine.rss_bytes() > 1_000_000
    pid = engine.pid
    first, second = engine.begin_request(), engine.begin_request()
    engine.end_request(first)
    assert (engine.state, engine.active_requests) == (EngineState.BUSY, 1)
    engine.end_request(second)
    await engine.stop()
    await engine.stop()
    await engine._exited.wait()
    assert moves == ["starting", "ready", "busy", "ready", "stopping", "stopped"]
    assert not psutil.pid_exists(pid)
    assert engine.rss_bytes() == 0


async def test_it_starts_again_and_old_leases_do_not_count(make: Callable[..., EngineProcess]) -> None:
    engine = make()
    await engine.start(spec(), deadline_s=DEADLINE_S)
    old = engine.begin_request()
    await engine.stop()
    await engine.start(spec(), deadline_s=DEADLINE_S)
    engine.begin_request()
    engine.end_request(old)
    assert (engine.state, engine.active_requests) == (EngineState.BUSY, 1)
    await engine.stop()


@pytest.mark.parametrize("old", list(EngineState))
@pytest.mark.parametrize("new", list(EngineState))
async def test_only_the_moves_of_the_table(
    make: Callable[..., EngineProcess], old: EngineState, new: EngineState
) -> None:
    engine = make()
    engine.state = old
    if new in TRANSITIONS[old]:
        engine._transition(new)
        assert engine.state is new
    else:
        with pytest.raises(IllegalTransition):
            engine._transition(new)
        assert engine.state is old


async def test_starting_twice_is_illegal(make: Callable[..., EngineProcess]) -> None:
    engine = make()
    await engine.start(spec(), deadline_s=DEADLINE_S)
    with pytest.raises(IllegalTransition):
        await engine.start(spec(), deadline_s=DEADLINE_S)
    assert engine.state is EngineState.READY
    await engine.stop()


async def test_no_request_before_it_is_ready(make: Callable[..., EngineProcess]) -> None:
    with pytest.raises(IllegalTransition):
        make().begin_request()


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--log", "0.00.121.635 E llama_model_load: error loading model: unknown model architecture: 'xyz'",
          "--log", "0.00.121.672 E llama_model_load_from_file_impl: failed to load model", "--exit", "3"],
         FailureKind.REJECTED, "refused by the engine: unknown model architecture: 'xyz'"),
        (["--log",
         "0.00.012.904 E gguf_init_from_file: failed to open GGUF file '/home/a/models/x y/m.gguf' (gone)",
          "--exit", "3"],
         FailureKind.REJECTED, "refused by the engine: failed to open GGUF file"),
        (["--log", "0.07.683.315 E ggml_aligned_malloc: insufficient memory (attempted to allocate 87.25 MB)",
          "--exit", "3"],
         FailureKind.MEMORY,
         "the engine ran out of memory: insufficient memory (attempted to allocate 87.25 MB)"),
        (["--kill", "9"], FailureKind.KILLED, "the engine was killed (out of memory?)"),
        (["--log", "/build/ggml/src/ggml.c:12: GGML_ASSERT(ne > 0) failed", "--kill", "6"],
         FailureKind.CRASHED, "the engine crashed (SIGABRT): ggml.c:12: GGML_ASSERT(ne > 0) failed"),
        (["--log", "/w/ggml-backend.cpp:1084: pre-allocated tensor in a buffer (Vulkan0)", "--kill", "6"],
         FailureKind.CRASHED,
         "the engine crashed (SIGABRT): ggml-backend.cpp:1084: pre-allocated tensor in a buffer (Vulkan0)"),
        (["--kill", "11"], FailureKind.CRASHED, "the engine crashed (SIGSEGV)"),
        (["--exit", "0"], FailureKind.CRASHED, "the engine crashed (exit status 0)"),
        (["--exit", "2"], FailureKind.CRASHED, "the engine did not understand its specification"),
        (["--garbage"], FailureKind.CRASHED, "the engine sent an invalid ready report"),
    ],
)  # fmt: skip
async def test_why_it_did_not_start(
    make: Callable[..., EngineProcess], arguments: list[str], kind: FailureKind, words: str
) -> None:
    engine = make(*arguments)
    with pytest.raises(EngineFailed) as caught:
        await engine.start(spec(), deadline_s=DEADLINE_S)
    assert engine.state is EngineState.FAILED
    assert engine.failure is not None
    assert engine.failure.kind is kind
    assert engine.failure.message.startswith(words)
    assert caught.value.message == engine.failure.message
    assert "/home" not in engine.failure.message
    assert "/build" not in engine.failure.message
    assert engine.pid is None


async def test_a_command_that_does_not_exist(tasks: TaskSupervisor) -> None:
    engine = EngineProcess("m", tasks=tasks, command=["/nonexistent/worker"])
    with pytest.raises(EngineFailed, match="could not be started: No such file"):
        await engine.start(spec(), deadline_s=DEADLINE_S)
    assert engine.state is EngineState.FAILED


async def test_a_load_that_takes_too_long_is_killed(
    make: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    engine = make("--gate", str(tmp_path / "never"), "--ignore-term")
    with pytest.raises(EngineFailed, match="not loaded within"):
        await engine.start(spec(), deadline_s=0.3)
    assert engine.state is EngineState.FAILED
    assert engine.failure is not None
    assert engine.failure.kind is FailureKind.TIMEOUT
    assert engine.pid is None


async def test_stop_while_loading(
    make: Callable[..., EngineProcess], tasks: TaskSupervisor, tmp_path: Path
) -> None:
    engine = make("--gate", str(tmp_path / "never"), "--journal", str(tmp_path / "journal"))
    loading = tasks.spawn(_refused(engine), "loading")
    await eventually((tmp_path / "journal").exists)
    await engine.stop()
    assert await loading == "the engine was stopped while loading"
    assert engine.state is EngineState.STOPPED


async def test_stop_before_the_child_exists(
    make: Callable[..., EngineProcess], tasks: TaskSupervisor
) -> None:
    engine = make()
    loading = tasks.spawn(_refused(engine), "loading")
    await asyncio.sleep(0)
    assert engine.is_alive
    await engine.stop()
    assert await loading == "the engine was stopped while loading"
    assert engine.state is EngineState.STOPPED
    assert engine.pid is None


async def test_giving_up_a_load_leaves_no_process(
    make: Callable[..., EngineProcess], tasks: TaskSupervisor, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    engine = make("--gate", str(tmp_path / "never"), "--journal", str(journal))
    loading = tasks.spawn(_refused(engine), "loading")
    await eventually(lambda: journal.exists() and journal.read_text())
    pid = int(journal.read_text().split()[0])
    loading.cancel()
    await engine._exited.wait()
    assert not psutil.pid_exists(pid)
    assert engine.state is EngineState.FAILED


async def _refused(engine: EngineProcess) -> str:
    with pytest.raises(EngineFailed) as caught:
        await engine.start(spec(), deadline_s=DEADLINE_S)
    return caught.value.message


@pytest.mark.parametrize("stubborn", [["--ignore-eof"], ["--ignore-eof", "--ignore-term"]])
async def test_a_stubborn_child_is_ended(
    make: Callable[..., EngineProcess], monkeypatch: pytest.MonkeyPatch, stubborn: list[str]
) -> None:
    monkeypatch.setattr(process_module, "STOP_EOF_S", 0.05)
    monkeypatch.setattr(process_module, "STOP_TERM_S", 0.2)
    engine = make(*stubborn)
    await engine.start(spec(), deadline_s=DEADLINE_S)
    pid = engine.pid
    assert pid is not None
    await engine.stop()
    assert engine.state is EngineState.STOPPED
    assert not psutil.pid_exists(pid)


async def test_death_while_busy(make: Callable[..., EngineProcess]) -> None:
    moves: list[EngineState] = []
    engine = make(moves=moves)
    await engine.start(spec(), deadline_s=DEADLINE_S)
    lease = engine.begin_request()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await engine._exited.wait()
    assert moves[-1] is EngineState.FAILED
    assert engine.active_requests == 0
    engine.end_request(lease)
    assert engine.failure is not None
    assert engine.failure.message == "the engine was killed (out of memory?)"
    await engine.start(spec(), deadline_s=DEADLINE_S)
    assert not engine.failure
    await engine.stop()


async def test_a_check_kills_what_does_not_answer(make: Callable[..., EngineProcess]) -> None:
    well, ill = make(), make("--unhealthy")
    for engine in (well, ill):
        await engine.start(spec(), deadline_s=DEADLINE_S)
    assert await well.kill_if_unresponsive(deadline_s=DEADLINE_S)
    assert not await ill.kill_if_unresponsive(deadline_s=DEADLINE_S)
    assert (well.state, ill.state) == (EngineState.READY, EngineState.FAILED)
    assert ill.failure is not None
    assert ill.failure.message == "the engine stopped answering"
    await well.stop()


async def test_the_log_keeps_the_last_lines(make: Callable[..., EngineProcess]) -> None:
    lines = [argument for number in range(250) for argument in ("--log", f"line {number}")]
    engine = make(*lines, "--log", "x" * 100_000, "--exit", "1")
    with pytest.raises(EngineFailed):
        await engine.start(spec(), deadline_s=DEADLINE_S)
    assert len(engine._log) == 200
    assert engine._log[-2] == "line 249"
    assert len(engine._log[-1]) == 1000


async def test_it_leads_its_own_session(make: Callable[..., EngineProcess]) -> None:
    engine = make()
    await engine.start(spec(), deadline_s=DEADLINE_S)
    assert engine.pid is not None
    assert os.getsid(engine.pid) == engine.pid != os.getsid(0)
    await engine.stop()


async def test_the_real_worker_dies_with_its_parent(smollm2: Path, tmp_path: Path) -> None:
    """The parent is killed with SIGKILL while its engine is ready, so only the worker can clean up."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from llb.engine.process import EngineProcess\n"
        "from llb.base.tasks import TaskSupervisor\n"
        "from tests.engine.test_process import spec\n"
        "async def main():\n"
        "    engine = EngineProcess('m', tasks=TaskSupervisor('t'))\n"
        "    await engine.start(spec(model_path=sys.argv[1]), deadline_s=60)\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).parents[2])
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(smollm2),
        stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert parent.stdout is not None
    engine = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(engine.wait, DEADLINE_S)
    assert not engine.is_running()
