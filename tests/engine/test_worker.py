"""Engine worker with the real llama.cpp: access, responses and exit."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest
import pytest_asyncio

from llb import gguf
from llb.base.tasks import TaskSupervisor
from llb.engine.diagnosis import FailureKind
from llb.engine.planning.buffer_report import BufferPurpose, sum_buffers
from llb.engine.process import EngineProcess
from llb.engine.spec import EngineKind, EngineSpec, WorkerReady
from llb.engine.worker import build_llama_params
from llb.errors import EngineFailed, InvalidRequest
from llb.gateway.http.engine_errors import translate_engine_error
from llb.hardware import engine_command, engine_environment
from llb.policy.memory import MIB, estimate_memory
from llb.wire import EngineState, KvCacheType, TemplateSupport
from tests.engine.test_process import spec
from tests.ggufs import (
    ALTERNATING_CHAT_TEMPLATE,
    ANSWERED_TOOL_CHAT_TEMPLATE,
    CHAT_TEMPLATE,
    FIRST_SYSTEM_CHAT_TEMPLATE,
    TOOL_CHAT_TEMPLATE,
    write_chat_model,
    write_embedding_model,
)
from tests.gpu.llama_server import read_own_buffers

DEADLINE_S = 60.0
KEY = {"Authorization": "Bearer secret"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    engine: WorkerReady, method: str, path: str, body: object = None, headers: dict[str, str] = KEY
) -> Reply:
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Running:
    """Start engines of the real worker, stopped at the end of the test."""

    def __init__(self) -> None:
        self.tasks = TaskSupervisor("engines")
        self.engines: list[EngineProcess] = []

    async def start(self, wanted: EngineSpec) -> EngineProcess:
        engine = EngineProcess(wanted.alias, tasks=self.tasks)
        self.engines.append(engine)
        await engine.start(wanted, deadline_s=DEADLINE_S)
        return engine

    async def close(self) -> None:
        for engine in self.engines:
            await engine.stop()
        await self.tasks.close()


@pytest_asyncio.fixture
async def running() -> AsyncIterator[Running]:
    made = Running()
    yield made
    await made.close()


async def test_the_real_model_answers_and_is_closed(running: Running, smollm2: Path) -> None:
    engine = await running.start(spec(model_path=str(smollm2), alias="smollm2-135m", context_length=1024))
    ready = engine.ready
    assert ready is not None
    assert (ready.host, ready.context_length, ready.slots) == ("127.0.0.1", 1024, 2)
    assert engine.rss_bytes() > 98_000_000

    question = {"messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 4}
    reply = ask(ready, "POST", "/v1/chat/completions", question)
    assert reply.status == 200
    assert reply.json()["model"] == "smollm2-135m"
    assert reply.json()["usage"]["completion_tokens"] == 4

    for headers in ({}, {"Authorization": "Bearer other"}):
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/props"),
            ("GET", "/v1/models"),
            ("GET", "/slots"),
        ):
            assert ask(ready, method, path, {} if method == "POST" else None, headers).status == 401
    assert ask(ready, "GET", "/health", headers={}).json() == {"status": "ok"}
    for path, status in (("/slots", 501), ("/metrics", 501), ("/", 404), ("/tools", 403)):
        assert ask(ready, "GET", path).status == status
    assert ask(ready, "POST", "/props", {}).status == 501

    foreign = KEY | {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        assert ask(ready, method, "/v1/models", headers=foreign).headers["access-control-allow-origin"] == ""
    addresses = {connection.laddr for connection in psutil.Process(engine.pid).net_connections()}
    assert {address.ip for address in addresses if address} == {"127.0.0.1"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_what_a_running_engine_knows(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "LLB_ADMIN_PASSWORD", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "a-secret")
    engine = await running.start(
        spec(model_path=str(write_chat_model(tmp_path / "m.gguf")), api_key="the-key")
    )
    process = Path("/proc") / str(engine.pid)
    assert b"a-secret" not in (process / "environ").read_bytes()
    assert b"the-key" not in (process / "cmdline").read_bytes()
    assert "Max core file size        0 " in (process / "limits").read_text()
    # All threads, also those that llama.cpp has started before the second filter.
    for thread in (process / "task").iterdir():
        status = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
        assert int(status["Seccomp"]) == 2
        assert int(status["Seccomp_filters"]) >= 2
        assert int(status["CapPrm"], 16) == 0
        assert status["Uid"].split()[0] != "0"
        assert len(set(status["Uid"].split())) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is Linux's")
async def test_a_model_that_only_its_owner_can_read_loads(running: Running, tmp_path: Path) -> None:
    directory = tmp_path / "home" / "models"
    directory.mkdir(parents=True)
    model = write_chat_model(directory / "m.gguf")
    model.chmod(0o600)
    directory.parent.chmod(0o700)
    engine = await running.start(spec(model_path=str(model)))
    assert engine.ready is not None
    answer = ask(engine.ready, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})
    assert answer.status == 200


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root can give up capabilities"
)
@pytest.mark.parametrize("missing", [(2,), (1, 2)], ids=["as-in-a-container", "without-both"])
async def test_engines_of_a_root_with_fewer_capabilities(
    tasks: TaskSupervisor, tmp_path: Path, missing: tuple[int, ...]
) -> None:
    """They have a user of their own if it can read the model, and stay root if not."""
    model = write_chat_model(tmp_path / "m.gguf")
    model.chmod(0o600)
    # PR_CAPBSET_DROP; the next program has the remaining capabilities.
    source = (
        "import ctypes, os, sys\n"
        f"for capability in {missing}: ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    engine = EngineProcess("m", tasks=tasks, command=(sys.executable, "-c", source, *engine_command()))
    await engine.start(spec(model_path=str(model)), deadline_s=DEADLINE_S)
    try:
        status = (Path("/proc") / str(engine.pid) / "status").read_text()
        user_id = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        assert (user_id == "0") == (missing == (1, 2))
    finally:
        await engine.stop()


async def test_the_profile_for_gpus_loads_and_answers(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = await running.start(
        spec(model_path=str(write_chat_model(tmp_path / "m.gguf")), gpu_layers=(2,), slots=3, threads=2)
    )
    assert engine.ready is not None
    assert ask(engine.ready, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2}).status == 200


async def test_what_a_chat_engine_does_works_in_the_sandbox(running: Running, tmp_path: Path) -> None:
    """Grammar, a stream, log probabilities, a prompt of several batches, requests at the same time."""
    model = write_chat_model(tmp_path / "m.gguf", context=4096)
    engine = await running.start(
        spec(
            model_path=str(model),
            context_length=2048,
            slots=4,
            threads=3,
            prompt_cache_bytes=16 << 20,
            context_checkpoints=2,
            mmap=False,
        )
    )
    ready = engine.ready
    assert ready is not None
    schema = {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}
    message = [{"role": "user", "content": "Hi"}]
    chat = {"messages": message, "max_tokens": 20}
    bodies: list[dict[str, Any]] = [
        chat,
        chat | {"stream": True},
        chat | {"logprobs": True, "top_logprobs": 3},
        chat | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 4},
    ]
    loop = asyncio.get_running_loop()
    replies = await asyncio.gather(
        *(loop.run_in_executor(None, ask, ready, "POST", "/v1/chat/completions", body) for body in bodies * 2)
    )
    assert {reply.status for reply in replies} == {200}
    assert ask(ready, "POST", "/tokenize", {"content": "abc"}).status == 200


async def test_the_context_is_the_models_at_most(running: Running, tmp_path: Path) -> None:
    model = write_chat_model(tmp_path / "m.gguf", context=512)
    engine = await running.start(spec(model_path=str(model), context_length=4096, slots=3))
    assert engine.ready is not None
    assert (engine.ready.context_length, engine.ready.slots) == (512, 3)


async def test_a_prompt_that_is_too_long_is_an_error_not_forgotten(running: Running, tmp_path: Path) -> None:
    engine = await running.start(spec(model_path=str(write_chat_model(tmp_path / "m.gguf"))))
    assert engine.ready is not None
    reply = ask(engine.ready, "POST", "/v1/completions", {"prompt": "x" * 2000, "max_tokens": 1})
    assert reply.status == 400
    assert reply.json()["error"]["type"] == "exceed_context_size_error"
    # An answer without its own limit ends with the context.
    reply = ask(engine.ready, "POST", "/v1/completions", {"prompt": "x" * 400, "ignore_eos": True})
    assert reply.json()["usage"]["total_tokens"] <= 513


@pytest.mark.parametrize(
    ("template", "support"),
    [
        (CHAT_TEMPLATE, TemplateSupport(tools=False)),
        (TOOL_CHAT_TEMPLATE, TemplateSupport()),
        (ANSWERED_TOOL_CHAT_TEMPLATE, TemplateSupport(user_after_tool=False)),
        (FIRST_SYSTEM_CHAT_TEMPLATE,
         TemplateSupport(tools=False, several_system=False, late_system=False)),
        (ALTERNATING_CHAT_TEMPLATE,
         TemplateSupport(tools=False, several_system=False, late_system=False, consecutive_roles=False)),
    ],
    ids=["everything", "tools", "answered tools", "the first system message", "alternating turns"],
)  # fmt: skip
async def test_what_the_chat_template_prints(
    running: Running, tmp_path: Path, template: str, support: TemplateSupport
) -> None:
    model = write_chat_model(tmp_path / "m.gguf", template=template)
    engine = await running.start(spec(model_path=str(model)))
    assert engine.ready is not None
    assert engine.ready.template == support


async def test_embeddings(running: Running, tmp_path: Path) -> None:
    model = write_embedding_model(tmp_path / "e.gguf")
    engine = await running.start(spec(model_path=str(model), kind=EngineKind.EMBEDDING))
    assert engine.ready is not None
    reply = ask(engine.ready, "POST", "/v1/embeddings", {"input": ["one", "another"]})
    assert reply.status == 200
    first, second = (entry["embedding"] for entry in reply.json()["data"])
    assert len(first) == len(second)
    assert first != second


async def test_a_chat_model_does_not_embed(running: Running, tmp_path: Path) -> None:
    engine = await running.start(spec(model_path=str(write_chat_model(tmp_path / "m.gguf"))))
    assert engine.ready is not None
    assert ask(engine.ready, "POST", "/v1/embeddings", {"input": "x"}).status == 501


async def refusal(running: Running, wanted: EngineSpec) -> tuple[FailureKind, str]:
    with pytest.raises(EngineFailed):
        await running.start(wanted)
    failure = running.engines[-1].failure
    assert running.engines[-1].state is EngineState.FAILED
    assert failure is not None
    return failure.kind, failure.message


async def test_why_llama_cpp_refuses_a_file(running: Running, tmp_path: Path) -> None:
    whole = write_chat_model(tmp_path / "whole.gguf", layers=8)
    other = tmp_path / "other.gguf"
    other.write_bytes(whole.read_bytes().replace(b"llama", b"blorp"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-1000])
    page = tmp_path / "page.gguf"
    page.write_bytes(b"<html>" * 1000)
    sentences = {}
    for path in (other, cut, page, tmp_path / "none.gguf"):
        kind, sentences[path.name] = await refusal(running, spec(model_path=str(path)))
        assert kind is FailureKind.REJECTED
    assert sentences["other.gguf"] == "refused by the engine: unknown model architecture: 'blorp'"
    assert "not within the file bounds, model is corrupted or incomplete" in sentences["cut.gguf"]
    assert "invalid magic characters: '<htm', expected 'GGUF'" in sentences["page.gguf"]
    assert "failed to open GGUF file 'none.gguf' (No such file or directory)" in sentences["none.gguf"]
    assert not any(str(tmp_path) in sentence for sentence in sentences.values())


@pytest.mark.skipif(sys.platform == "win32", reason="limits the address space with a shell's ulimit")
async def test_an_allocation_that_fails_is_not_the_files_fault(tasks: TaskSupervisor, smollm2: Path) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -v 1500000; exec "$@"', "sh", *engine_command())
    engine = EngineProcess("m", tasks=tasks, command=limited)
    with pytest.raises(EngineFailed):
        await engine.start(spec(model_path=str(smollm2), context_length=40_000), deadline_s=DEADLINE_S)
    assert engine.failure is not None
    assert engine.failure.kind is FailureKind.MEMORY
    assert engine.failure.message.startswith("the engine ran out of memory: ")


def run_worker(stdin: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        engine_command(*arguments),
        input=stdin, capture_output=True, text=True, timeout=30, check=False,
        env=engine_environment(os.environ),
    )  # fmt: skip


@pytest.mark.parametrize("line", ["", "no json\n", '{"alias": 5}\n'])
def test_a_spec_that_is_not_understood(line: str) -> None:
    done = run_worker(line)
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid engine specification" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is Linux's")
def test_the_restrictions_of_this_host() -> None:
    done = run_worker("", "--sandbox")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["seccomp"] is True
    assert (report["user_id"] is None) == (os.geteuid() != 0)


def test_devices() -> None:
    done = run_worker("", "--devices")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["build"] == "cpu"
    assert report["devices"][-1]["kind"] == "cpu"
    assert report["devices"][-1]["memory_total_bytes"] > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA of Linux")
async def test_a_request_cannot_take_more_memory_than_the_plan_allows(
    running: Running, chat_gguf: Path
) -> None:
    """The engine refuses it at once, and still answers others."""
    engine = await running.start(spec(model_path=str(chat_gguf), data_limit_bytes=2 << 30))
    assert engine.ready is not None
    greedy = {"prompt": "x", "n_predict": 1, "repeat_last_n": 2_000_000_000, "repeat_penalty": 1.1}
    refused = ask(engine.ready, "POST", "/completion", greedy)
    assert refused.status >= 400
    assert b"bad_alloc" in refused.body
    assert isinstance(translate_engine_error(refused.status, refused.body), InvalidRequest)
    assert ask(engine.ready, "POST", "/completion", {"prompt": "x", "n_predict": 1}).status == 200


@pytest.mark.parametrize(
    ("gpu_layers", "expert_layers_on_host", "expected"),
    [
        ((), 0, (0, "LAYER", 0, [0, 0, 0], "")),
        ((0, 0), 0, (0, "LAYER", 0, [0, 0, 0], "")),
        ((33,), 0, (33, "LAYER", 0, [0, 0, 0], "")),
        # One of several GPUs, the second.
        ((0, 33), 0, (33, "NONE", 1, [0, 0, 0], "")),
        ((20, 13, 0), 0, (33, "LAYER", 0, [20, 13, 0], "")),
        ((33,), 2, (33, "LAYER", 0, [0, 0, 0], r"blk\.(0|1)\.ffn_(up|down|gate_up|gate)_(ch|)exps=CPU")),
    ],
)
def test_layers_are_placed_as_planned(
    gpu_layers: tuple[int, ...],
    expert_layers_on_host: int,
    expected: tuple[int, str, int, list[int], str],
) -> None:
    params = build_llama_params(
        msgspec.structs.replace(spec(), gpu_layers=gpu_layers, expert_layers_on_host=expert_layers_on_host)
    )
    split = params.split_mode.name.rpartition("_")[2]
    placed = (params.n_gpu_layers, split, params.main_gpu, params.tensor_split[:3])
    assert (*placed, params.tensor_buft_overrides) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="llama.cpp reports no buffers on Windows")
def test_a_quantized_kv_cache_takes_what_is_planned(tmp_path: Path) -> None:
    """Loading includes one computed token."""
    path = write_chat_model(tmp_path / "m.gguf", heads=2, kv_heads=2, context=4096)
    with path.open("rb") as file:
        shape = gguf.build_model_shape([gguf.read_metadata(file, file_size=path.stat().st_size)])
    assert shape.has_quantizable_kv_cache
    planned = estimate_memory(shape, context_length=4096, slots=2, cache_type=KvCacheType.Q8_0).kv_cache
    quantized = spec(
        model_path=str(path), context_length=4096, slots=2, kv_cache_type=KvCacheType.Q8_0, mmap=False
    )
    kv_bytes = sum_buffers(read_own_buffers(quantized), None, (BufferPurpose.KV,))
    assert kv_bytes == pytest.approx(planned.ram_bytes, abs=MIB / 100)


def test_half_requests_do_not_occupy_the_threads_for_long() -> None:
    """llama.cpp's default is an hour, and any user of the host can open 1,100 connections."""
    assert build_llama_params(spec()).timeout_read <= 15
