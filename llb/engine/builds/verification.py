"""Verification of a build by running it: it lists a GPU, and computes on it what the CPU computes."""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from llb.base.tasks import TaskSupervisor
from llb.engine.builds.tiny_model import CONTEXT_LENGTH, LAYERS, PROMPT_TOKENS, write_tiny_model
from llb.engine.process import EngineProcess
from llb.engine.spec import EngineSpec, WorkerReady
from llb.errors import EngineFailed
from llb.hardware import DeviceQueryError, EngineBuild, engine_command, engine_environment, query_devices

# GPUs for which a build has no code of their own compile it at the first start.
FIRST_START_TIMEOUT_S = 600.0
GENERATION_TIMEOUT_S = 120.0
TOKEN_COUNT = 8
GPU_KINDS = ("gpu", "igpu")


class BuildRefused(Exception):
    """A build does not work on this host; the text says why, in one line."""


async def verify_build(build: EngineBuild) -> tuple[str, ...]:
    """Return the names of the GPUs on which `build` works. Raises `BuildRefused`, and OSError."""
    try:
        found = await query_devices(
            engine_command("--devices"),
            engine_environment(os.environ, build),
            timeout_s=FIRST_START_TIMEOUT_S,
        )
    except DeviceQueryError as error:
        raise BuildRefused(str(error)) from None
    gpus = [device for device in found.devices if device.kind == "gpu"]
    # Like llama.cpp: integrated GPUs count only if there are no others.
    gpus = gpus or [device for device in found.devices if device.kind == "igpu"]
    if not gpus:
        raise BuildRefused("it finds no GPU")
    with tempfile.TemporaryDirectory(prefix="llb-build-") as directory:
        path = Path(directory) / "tiny.gguf"
        write_tiny_model(path)
        expected = await generate_tokens(EngineBuild(), path)
        for index, gpu in enumerate(gpus):
            layers = tuple(LAYERS + 1 if number == index else 0 for number in range(len(gpus)))
            tokens = await generate_tokens(build, path, layers)
            if tokens != expected:
                raise BuildRefused(f"{gpu.description or gpu.name} computes other results than the CPU")
    return tuple(gpu.description or gpu.name for gpu in gpus)


async def generate_tokens(build: EngineBuild, path: Path, gpu_layers: tuple[int, ...] = ()) -> list[int]:
    """Return the most probable tokens after the prompt. Raises `BuildRefused`."""
    tasks = TaskSupervisor("verification")
    process = EngineProcess("tiny", tasks=tasks, get_build=lambda: build)
    spec = EngineSpec(
        model_path=str(path),
        alias="tiny",
        context_length=CONTEXT_LENGTH,
        slots=1,
        gpu_layers=gpu_layers,
        batch_tokens=128,
        ubatch_tokens=128,
        prompt_cache_bytes=0,
        threads=1,
        api_key=secrets.token_urlsafe(),
    )
    try:
        ready = await process.start(spec, deadline_s=FIRST_START_TIMEOUT_S)
        return await asyncio.to_thread(_request_tokens, ready, spec.api_key)
    except EngineFailed as error:
        # The diagnosis may be "exit status 1" only.
        line = process.last_log_line
        reason = error.message if line in error.message else f"{error.message}: {line}"
        raise BuildRefused(reason) from None
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise BuildRefused(f"it does not answer: {error}") from None
    finally:
        with suppress(EngineFailed):
            await process.stop()
        await tasks.close()


class _Completion(msgspec.Struct):
    tokens: list[int]


def _request_tokens(ready: WorkerReady, api_key: str) -> list[int]:
    connection = http.client.HTTPConnection(ready.host, ready.port, timeout=GENERATION_TIMEOUT_S)
    request = {
        "prompt": PROMPT_TOKENS,
        "n_predict": TOKEN_COUNT,
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens": True,
    }
    try:
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        connection.request("POST", "/completion", msgspec.json.encode(request), headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"status {response.status}")
        return msgspec.json.decode(body, type=_Completion).tokens
    finally:
        connection.close()
