"""Query of the engine's devices in a child process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from llb.hardware import (
    DeviceQueryError,
    device_query,
    query_devices,
)
from llb.hardware.devices import EngineDevices


async def test_a_query_that_was_begun_early_is_taken_over_once(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = (
        f"import os; os.write(os.open({str(starts)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x'); "
        + ("""print('{"build": "cpu", "devices": []}')""")
    )
    command, environment = (sys.executable, "-I", "-S", "-c", code), {"LANG": "C"}
    device_query.begin_device_query(command, environment)
    for count in (1, 2):
        assert await query_devices(command, dict(environment)) == EngineDevices(build="cpu")
        assert starts.read_bytes() == b"x" * count


async def test_an_early_query_of_another_build_is_ended() -> None:
    endless = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)")
    device_query.begin_device_query(endless, {})
    early = device_query._early_query
    assert early is not None
    command = (sys.executable, "-I", "-S", "-c", """print('{"build": "cpu", "devices": []}')""")
    assert await query_devices(command, {}) == EngineDevices(build="cpu")
    assert early.process.returncode == -signal.SIGKILL


async def test_an_early_query_that_cannot_start_is_asked_again() -> None:
    device_query.begin_device_query(["/nonexistent"], {})
    with pytest.raises(DeviceQueryError, match="No such file"):
        await query_devices(["/nonexistent"], {})
