"""Local proof: what makes a request that claims to be local doubtful, and what is reported of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware import local_proof as local_proof_module
from llb.api.middleware.local_proof import (
    ELSEWHERE,
    OLD_HTTP,
    OTHER_NAME,
    TRUSTED_PROXY,
    TUNNEL,
    LocalProof,
    ProxyDetections,
)
from llb.security.peer_process import Doubt, PeerReport


class Peer:
    """The process at the other end, as the examination finds it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.report = PeerReport(None)
        self.examined = 0
        self.connection = SimpleNamespace(
            peername=("127.0.0.1", 5), sockname=("127.0.0.1", 9), ctx=SimpleNamespace()
        )
        monkeypatch.setattr(local_proof_module, "examine_peer", self._examine)
        self.proof = LocalProof()

    def _examine(self, *_arguments: object) -> PeerReport:
        self.examined += 1
        return self.report

    async def doubt(
        self, *, version: str = "1.1", may_reach_outside: bool = True, **client: Any
    ) -> str | None:
        facts = {
            "is_loopback_peer": True,
            "is_trusted_proxy": False,
            "proxy_header": None,
            "on_loopback": True,
            **client,
        }
        request = SimpleNamespace(
            version=version,
            conn_info=self.connection,
            ctx=SimpleNamespace(client=SimpleNamespace(**facts)),
        )
        return await self.proof.find_doubt(
            cast(IncomingRequest, request), may_reach_outside=may_reach_outside
        )


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    made = Peer(monkeypatch)
    yield made
    made.proof._threads.shutdown()


@pytest.mark.parametrize(
    ("facts", "doubt", "is_reported"),
    [
        ({"is_loopback_peer": False}, ELSEWHERE, False),
        ({"is_trusted_proxy": True}, TRUSTED_PROXY, False),
        ({"proxy_header": "via"}, "the request has the header of a proxy ('via')", True),
        ({"version": "1.0"}, OLD_HTTP, True),
        ({"on_loopback": False}, OTHER_NAME, True),
    ],
)
async def test_a_doubtful_head_is_told_without_a_look_at_the_process(
    peer: Peer, facts: dict[str, Any], doubt: str, is_reported: bool
) -> None:
    assert await peer.doubt(**facts) == doubt
    assert peer.examined == 0
    assert bool(peer.proof.detections.problems()) is is_reported


async def test_a_program_of_this_user_is_local(peer: Peer) -> None:
    assert await peer.doubt() is None
    # What the process does may change while its connection stays.
    assert await peer.doubt() is None
    assert peer.examined == 2
    assert peer.proof.detections.problems() == ()


async def test_a_tunnel_is_doubted_where_it_matters(peer: Peer) -> None:
    peer.report = PeerReport(None, reaches_outside=True)
    assert await peer.doubt() is None
    assert await peer.doubt(may_reach_outside=False) == TUNNEL
    assert peer.proof.detections.problems()


async def test_a_process_of_another_user_stays_one(peer: Peer) -> None:
    peer.report = PeerReport(Doubt.OTHER_USER)
    for _ in range(2):
        assert await peer.doubt() == str(Doubt.OTHER_USER)
    assert peer.examined == 1


async def test_a_system_that_tells_no_process_is_no_problem_of_a_proxy(peer: Peer) -> None:
    peer.report = PeerReport(Doubt.UNSUPPORTED)
    assert await peer.doubt() == str(Doubt.UNSUPPORTED)
    assert peer.proof.detections.problems() == ()


@pytest.mark.parametrize("connection", [None, SimpleNamespace(peername="/run/llb.sock")])
async def test_a_connection_without_addresses_is_not_found(peer: Peer, connection: Any) -> None:
    peer.connection = connection
    assert await peer.doubt() == str(Doubt.NOT_FOUND)


def test_a_detection_is_logged_once_a_minute_and_reported_for_an_hour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 0.0
    detections = ProxyDetections(clock=lambda: now_s)
    assert detections.problems() == ()
    with caplog.at_level(logging.WARNING):
        for now_s in (0.0, 59.0, 60.0):
            detections.record(f"reason {now_s:g}")
    assert [message.split("credential: ")[1][:9] for message in caplog.messages] == ["reason 0.", "reason 60"]
    now_s = 60.0 + 3600.0
    [problem] = detections.problems()
    assert "reason 60" in problem
    now_s += 1.0
    assert detections.problems() == ()
