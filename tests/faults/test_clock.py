"""The clock of the host jumps by a day in either direction while llb runs, for example because of NTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.ggufs import write_chat_model
from tests.harness import PASSWORD, write_catalog
from tests.hub import HubStandIn, tiny_gguf
from tests.processes import LlbProcess, wait_until

DAY_S = 86_400
SIZE = 3_000_000
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
# `python -m llb` whose wall clock is shifted by the seconds in a file, and which adds a byte to another one
# after each pruning of the history.
LAUNCHER = """
import sys, time
real, path = time.time, sys.argv.pop(1)
def shifted():
    with open(path) as file:
        return real() + float(file.read() or 0)
time.time = shifted
from llb.gateway.observability import request_log
request_log.PRUNE_INTERVAL_S = 0.05
prune = request_log.RequestLog.prune
async def counted(log):
    await prune(log)
    with open(path + ".prunes", "a") as file:
        file.write(".")
request_log.RequestLog.prune = counted
from llb.__main__ import main
sys.exit(main())
"""


class ShiftedClockProcess(LlbProcess):
    """Server process with an adjustable clock."""

    def shift(self, seconds: float) -> None:
        self._clock.write_text(str(seconds))

    def wait_for_prunes(self, number: int) -> None:
        """Wait until the history was pruned `number` times from now on."""
        prunes = self._clock.with_name(self._clock.name + ".prunes")
        wanted = (prunes.stat().st_size if prunes.exists() else 0) + number
        wait_until(lambda: prunes.exists() and prunes.stat().st_size >= wanted)

    def log_in(self) -> dict[str, str]:
        """Headers of a new session."""
        sign_in = {"username": "admin", "password": PASSWORD}
        answer = self.http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""})
        assert answer.status_code == 200, answer.text
        self.http.cookies.clear()
        return {"Authorization": "", "Cookie": f"llb_session={answer.cookies['llb_session']}"}

    def _build_command(self) -> list[str]:
        self._clock = self.home.with_name("clock")
        if not self._clock.exists():
            self.shift(0)
        return [sys.executable, "-c", LAUNCHER, str(self._clock), *super()._build_command()[3:]]


@pytest.fixture
def served(tmp_path: Path, hub: HubStandIn) -> Iterator[ShiftedClockProcess]:
    chat = write_chat_model(tmp_path / "chat.gguf")
    hub.add_repo("test/chat", {"chat.gguf": chat})
    hub.add_repo("test/large", {"large.gguf": tiny_gguf(SIZE, seed="large")})
    catalog = write_catalog(
        tmp_path / "catalog.json",
        {"id": "chat", "size_bytes": chat.stat().st_size},
        {"id": "large", "size_bytes": SIZE},
    )
    llb = ShiftedClockProcess(
        tmp_path / "home", "--catalog", str(catalog), HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD=PASSWORD
    )
    with llb:
        assert llb.register_model("chat").status_code == 202
        llb.wait_for_status("chat", "Ready")
        yield llb


@pytest.mark.parametrize("days", [1, -1])
def test_everything_continues(served: ShiftedClockProcess, hub: HubStandIn, days: int) -> None:
    http = served.http
    key = {"Authorization": f"Bearer {http.post('/api/keys', json={'name': 'k'}).json()['key']}"}
    sign_in = {"username": "admin", "password": PASSWORD}
    signed_in = http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""})
    cookie = {"Authorization": "", "Cookie": f"llb_session={signed_in.cookies['llb_session']}"}
    http.cookies.clear()
    slow = hub.faults.throttle(500_000, file="large.gguf")
    assert served.register_model("large").status_code == 202
    served.wait_for_status("large", "Downloading")

    with http.stream(
        "POST", "/v1/chat/completions", json={**HELLO, "max_tokens": 400, "stream": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        served.shift(days * DAY_S)
        assert [*lines][-2:] == ["data: [DONE]", ""]

    assert http.post("/v1/chat/completions", json=HELLO, headers=key).status_code == 200
    assert http.get("/api/auth/me", headers=cookie).status_code == 200
    assert http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""}).status_code == 200
    http.cookies.clear()
    slow.clear()
    assert served.wait_for_status("large", "Ready")["error"] is None
    [node] = http.get("/api/nodes").json()["nodes"]
    assert node["status"] == "online"
    records = http.get("/api/requests?limit=10").json()["requests"]
    assert len(records) >= 2
    served.shift(0)
    assert http.post("/v1/chat/completions", json=HELLO, headers=key).status_code == 200
    assert http.delete("/api/models/large").status_code == 204
    served.wait_for_status("large", "Available")


def test_a_key_expires_by_the_clock(served: ShiftedClockProcess) -> None:
    http = served.http
    created = http.post("/api/keys", json={"name": "k", "expires_at": "2099-01-01T00:00:00Z"})
    key = {"Authorization": f"Bearer {created.json()['key']}"}
    assert http.get("/v1/models", headers=key).status_code == 200
    served.shift(80 * 365 * DAY_S)
    answer = http.get("/v1/models", headers=key)
    # The server caches a key for a second.
    while answer.status_code == 200:
        answer = http.get("/v1/models", headers=key)
    assert answer.json()["error"]["code"] == "invalid_api_key"
    served.shift(0)


@pytest.mark.parametrize("years", [1, 56])
def test_a_moment_years_ahead_deletes_nothing(served: ShiftedClockProcess, years: int) -> None:
    http = served.http
    session = served.log_in()
    assert http.post("/v1/chat/completions", json=HELLO).status_code == 200
    served.shift(years * 365 * DAY_S)
    ahead = served.log_in()
    assert http.get("/api/auth/me", headers=ahead).status_code == 200
    assert http.post("/v1/chat/completions", json=HELLO).status_code == 200
    served.wait_for_prunes(2)
    [problem] = [text for text in http.get("/api/system").json()["problems"] if "clock" in text]
    assert problem.startswith(f"The clock of this host has jumped forward by {years * 365}.0 days:")
    served.shift(0)
    assert [text for text in http.get("/api/system").json()["problems"] if "clock" in text] == []
    # Earlier sessions remain; those created meanwhile would last too long.
    wait_until(lambda: http.get("/api/auth/me", headers=session).status_code == 200)
    wait_until(lambda: http.get("/api/auth/me", headers=ahead).status_code == 401)
    times = [record["time"] for record in http.get("/api/requests?limit=10").json()["requests"]]
    assert len(times) == 2
    # Neither stays on top of the history for years.
    assert max(times) < (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def test_a_clock_that_is_set_back_makes_nothing_valid_again(served: ShiftedClockProcess) -> None:
    http = served.http
    expires_at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    created = http.post("/api/keys", json={"name": "k", "expires_at": expires_at})
    key = {"Authorization": f"Bearer {created.json()['key']}"}
    wait_until(lambda: http.get("/v1/models", headers=key).status_code == 401)
    served.shift(-10 * DAY_S)
    for _ in range(3):
        assert http.get("/v1/models", headers=key).status_code == 401
    # Nor does a restart.
    served.stop()
    served.start()
    assert served.http.get("/v1/models", headers=key).status_code == 401
    [problem] = [text for text in served.http.get("/api/system").json()["problems"] if "clock" in text]
    assert "jumped back by 10.0 days" in problem
