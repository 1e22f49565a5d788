"""Query of the devices on which a build of llama.cpp can compute, in a child process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from llb.hardware.devices import EngineDevices

# The first CUDA start on a cold machine takes seconds.
DEVICE_QUERY_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
MAX_ERROR_CHARS = 300


class DeviceQueryError(Exception):
    """The devices could not be queried; the text is a clause that says why."""


async def query_devices(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float | None = None
) -> EngineDevices:
    """Return what `command` (the worker with `--devices`) prints. Raises `DeviceQueryError`."""
    deadline_s = DEVICE_QUERY_TIMEOUT_S if timeout_s is None else timeout_s
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
        )
    except OSError as error:
        raise DeviceQueryError(str(error)) from None
    try:
        async with asyncio.timeout(deadline_s):
            output, errors = await process.communicate()
    except TimeoutError:
        raise DeviceQueryError(f"no answer within {deadline_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            # An unreaped child would keep the event loop from closing.
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await process.wait()
    if process.returncode != 0:
        reason = last_line(errors)
        raise DeviceQueryError(reason or f"it ended with status {process.returncode}")
    try:
        return msgspec.json.decode(output, type=EngineDevices)
    except msgspec.MsgspecError as error:
        raise DeviceQueryError(str(error)) from None


def last_line(output: bytes) -> str:
    """Return the last line with text, shortened: of a traceback, the one that says what is wrong."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:MAX_ERROR_CHARS]
