"""Checks of the network: the clock, and what a Hub that does not answer means."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llb.cli.checks import Finding, Level, network
from llb.config import make_config

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = SimpleNamespace(
        time=lambda: NOW, monotonic=lambda: 5.0, strftime=time.strftime, gmtime=time.gmtime
    )
    monkeypatch.setattr(network, "time", fixed)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_clock_of_the_past_is_told() -> None:
    assert [*network.check_clock(network.MIN_PLAUSIBLE_TIME)] == []
    [found] = network.check_clock(0.0)
    assert (found.level, found.detail) == (Level.BAD, "says 1970-01-01")


@pytest.mark.parametrize(
    ("offset_s", "level", "detail"),
    [
        (0.0, Level.OK, "agrees with the Hub"),
        (-network.CLOCK_TOLERANCE_S, Level.OK, "agrees with the Hub"),
        (-network.CLOCK_TOLERANCE_S - 1, Level.WARN, "5 min 1 s fast compared with the Hub"),
        (7200.0, Level.WARN, "2 h 0 min slow compared with the Hub"),
    ],
)
def test_the_clock_is_compared_with_that_of_the_hub(offset_s: float, level: Level, detail: str) -> None:
    [found] = network._compare_clock(formatdate(NOW + offset_s, usegmt=True))
    assert (found.level, found.detail) == (level, detail)


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_hub_without_a_date_says_nothing_about_the_clock(date: str | None) -> None:
    assert network._compare_clock(date) == []


def test_a_hub_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def hang(*_: Any) -> list[Finding]:
        may_end.wait(30)
        return []

    monkeypatch.setattr(network, "HUB_CHECK_TIMEOUT_S", 0.01)
    monkeypatch.setattr(network, "_query_hub", hang)
    [found] = network.check_hub(make_config(home=tmp_path), ())
    may_end.set()
    assert (found.level, found.detail) == (Level.WARN, "the Hub cannot be reached: no answer within 0 s")
    assert str(found.remedy).startswith("check the network; behind a proxy set HTTPS_PROXY.")
    no_proxy.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert str(network._hub_unreachable("the Hub", "x").remedy).startswith("check the proxy in HTTPS_PROXY.")


class FakeHub:
    """Client of a Hub with one answer."""

    endpoint = "https://hub.example"

    def __init__(self, status: int, content_type: str = "application/json") -> None:
        self.response = SimpleNamespace(status_code=status, headers={"content-type": content_type})

    def get_http_client(self) -> Any:
        return self

    def auth_headers(self, _url: str) -> dict[str, str]:
        return {}

    def get(self, url: str, **_: object) -> Any:
        assert url == "https://hub.example/api/models/org/a%20b?expand=sha"
        return self.response


@pytest.mark.parametrize(
    ("hub", "token", "level", "words"),
    [
        (FakeHub(200), None, Level.OK, "responds in 0 ms, without a token"),
        (FakeHub(200), "hf_x", Level.OK, "responds in 0 ms, with a valid token"),
        (FakeHub(401), "hf_x", Level.BAD, "does not accept the token"),
        # Without a token it may hide the repository.
        (FakeHub(401), None, Level.OK, "responds in 0 ms"),
        (FakeHub(429), None, Level.WARN, "it responds with 429"),
        (FakeHub(503, "text/html"), None, Level.WARN, "it responds with 503"),
        (FakeHub(200, "text/html"), None, Level.BAD, "something else responds in place of the Hub"),
    ],
)
def test_what_an_answer_means(tmp_path: Path, hub: Any, token: str | None, level: Level, words: str) -> None:
    [found] = network._query_hub(hub, "the Hub", "org/a b", make_config(home=tmp_path, hub_token=token))
    assert found.level is level
    assert words in found.detail
    assert "hf_x" not in f"{found.detail} {found.remedy}"
