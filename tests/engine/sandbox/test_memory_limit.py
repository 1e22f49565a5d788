"""Memory limit of the engine process: above its plan, and in effect."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llb.engine.sandbox.memory_limit import apply_data_limit, data_limit_bytes

GIB = 1 << 30
# Limits of the process after three calls, and what an allocation beyond them does.
_SCRIPT = """
import json, resource
from llb.engine.sandbox.memory_limit import apply_data_limit
applied = []
for limit in (3 << 30, 2 << 30, 5 << 30):
    assert apply_data_limit(limit)
    applied.append(resource.getrlimit(resource.RLIMIT_DATA))
try:
    bytearray(4 << 30)
except MemoryError:
    applied.append("refused")
print(json.dumps(applied))
"""


@pytest.mark.parametrize("planned_bytes", [0, GIB // 4, 8 * GIB, 200 * GIB])
def test_a_plan_has_room_to_be_wrong_and_a_request_of_its_own(planned_bytes: int) -> None:
    limit_bytes = data_limit_bytes(planned_bytes)
    assert isinstance(limit_bytes, int)
    assert limit_bytes - planned_bytes >= GIB + planned_bytes // 4
    assert limit_bytes <= 2 * planned_bytes + GIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA of Linux")
def test_the_limit_holds_and_can_only_be_lowered() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[3 * GIB] * 2, [2 * GIB] * 2, [2 * GIB] * 2, "refused"]


def test_other_systems_have_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not apply_data_limit(GIB)
