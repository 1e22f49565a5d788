"""Query of the devices on which a build of llama.cpp can compute, in a child process."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from llb.hardware.devices import EngineDevices

# The first CUDA start on a cold machine takes seconds.
DEVICE_QUERY_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
MAX_ERROR_CHARS = 300


class DeviceQueryError(Exception):
    """The devices could not be queried; the text is a clause that says why."""


class _Query(Struct, frozen=True):
    """Query whose process runs."""

    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> _Query:
        """Start the process. Raises OSError."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
        )
        return cls(command, environment, process)

    async def finish(self, deadline_s: float) -> tuple[bytes, bytes]:
        """Return the output and the errors of the process, which has ended then. Raises `TimeoutExpired`."""
        reading = asyncio.ensure_future(asyncio.to_thread(self._communicate, deadline_s))
        try:
            return await asyncio.shield(reading)
        finally:
            if not reading.done():
                self.process.kill()
                await asyncio.wait([reading])

    def _communicate(self, deadline_s: float) -> tuple[bytes, bytes]:
        try:
            return self.process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate(timeout=KILL_TIMEOUT_S)
            raise


# Begun before there was an event loop, and not taken over yet.
_early_query: _Query | None = None


def begin_device_query(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start a query that the next call of `query_devices` takes over, if it asks the same.

    A process that serves needs 0.3 s for its imports; its first query has ended by then.
    """
    global _early_query
    # The later call without an early query gets and reports the same error.
    with suppress(OSError):
        _early_query = _Query.start(command, environment)


async def query_devices(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float | None = None
) -> EngineDevices:
    """Return what `command` (the worker with `--devices`) prints. Raises `DeviceQueryError`."""
    global _early_query
    deadline_s = DEVICE_QUERY_TIMEOUT_S if timeout_s is None else timeout_s
    query, _early_query = _early_query, None
    try:
        if query is None or (query.command, query.environment) != (command, environment):
            if query is not None:
                query.process.kill()
                with suppress(subprocess.TimeoutExpired):
                    await query.finish(KILL_TIMEOUT_S)
            query = _Query.start(command, environment)
        output, errors = await query.finish(deadline_s)
    except OSError as error:
        raise DeviceQueryError(str(error)) from None
    except subprocess.TimeoutExpired:
        raise DeviceQueryError(f"no answer within {deadline_s:.0f} s") from None
    if query.process.returncode != 0:
        reason = last_line(errors)
        raise DeviceQueryError(reason or f"it ended with status {query.process.returncode}")
    try:
        return msgspec.json.decode(output, type=EngineDevices)
    except msgspec.MsgspecError as error:
        raise DeviceQueryError(str(error)) from None


def last_line(output: bytes) -> str:
    """Return the last line with text, shortened: of a traceback, the one that says what is wrong."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:MAX_ERROR_CHARS]
