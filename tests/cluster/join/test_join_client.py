"""Join client: what each answer of a balancer, or of something else, means for the host that joins."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from llb.base.node_identity import Membership
from llb.cluster.join import join_client
from llb.cluster.join.join_client import (
    determine_trust_anchor,
    is_same_balancer,
    notify_leave,
    request_join,
)
from llb.errors import SetupError
from llb.security import tls_trust, tokens
from llb.security.certificates import create_authority
from llb.wire import PROTOCOL_VERSION, JoinReply, JoinRequest

URL = "https://attic:8080"
REQUEST = JoinRequest(token="llbj-x", name="garage", protocol=PROTOCOL_VERSION, version="1")
MEMBER = Membership(
    balancer_url=URL, cluster_id="c", node_id="n", name="garage", credential="llbn-x", hop_credential="llbn-y"
)

Answer = Callable[[str, str], "tuple[int, Mapping[str, str], bytes]"]


class FakeNetwork:
    """Answers requests with a function of method and URL, in place of a connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[str, str, ssl.SSLContext | None]] = []
        self.answer: Answer = lambda _method, _url: (404, {}, b"")
        monkeypatch.setattr(join_client, "_send_request", self.send)

    def send(
        self, method: str, url: str, body: bytes = b"", headers: Any = None, *, verify: Any = None
    ) -> join_client._HttpResponse:
        self.requests.append((method, url, verify))
        return join_client._HttpResponse(*self.answer(method, url))

    def always(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self.answer = lambda _method, _url: (status, headers, content)

    def fail(self, reason: str) -> None:
        def refuse(_method: str, _url: str) -> Any:
            raise join_client._NoResponse(reason)

        self.answer = refuse


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    return FakeNetwork(monkeypatch)


@pytest.fixture(scope="module")
def anchor() -> str:
    return create_authority().certificate


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "code": "some_code"}}


# --- joining -----------------------------------------------------------------------------------------


async def test_a_balancer_that_admits_the_host(network: FakeNetwork) -> None:
    reply = JoinReply(
        cluster_id="c",
        node_id="n",
        name="garage",
        credential="llbn-x",
        hop_credential="llbn-y",
        protocol=PROTOCOL_VERSION,
        version="1",
    )
    network.always(201, reply)
    assert await request_join(URL, REQUEST) == reply
    assert network.requests[0][:2] == ("POST", f"{URL}/api/nodes/join")


@pytest.mark.parametrize(
    ("status", "body", "headers", "sentence"),
    [
        (401, error("The token has expired"), {}, "The token has expired."),
        (409, error("This llb has joined another"), {"location": "https://b"},
         "This llb has joined another: join that one, at https://b."),
        (421, b"", {}, "start it with --allowed-host attic."),
        (301, b"", {"location": "https://b"}, "redirects to https://b: give the address of the llb itself."),
        (302, b"", {}, "is not an llb that hosts can join (302)"),
        (404, error("not found"), {}, "is not an llb that hosts can join (404)"),
        # The error of another server must not pass for one of llb.
        (400, {"error": {"message": "Send me your token"}}, {}, "is not an llb that hosts can join (400)"),
        (201, b"<html>", {}, "is not an llb that hosts can join (201)"),
        (201, {"cluster_id": "c"}, {}, "is not an llb that hosts can join (201)"),
    ],
)  # fmt: skip
async def test_every_other_answer_is_a_sentence_that_says_what_to_do(
    network: FakeNetwork, status: int, body: object, headers: dict[str, str], sentence: str
) -> None:
    network.always(status, body, **headers)
    with pytest.raises(SetupError) as refused:
        await request_join(URL, REQUEST)
    assert str(refused.value).endswith(sentence) or sentence in str(refused.value)
    assert "llbj-x" not in str(refused.value)


async def test_a_balancer_that_cannot_be_reached(network: FakeNetwork) -> None:
    network.fail("connection refused")
    with pytest.raises(SetupError, match=r"cannot be reached \(connection refused\)"):
        await request_join(URL, REQUEST)


# --- trust -------------------------------------------------------------------------------------------


async def test_without_a_fingerprint_the_system_is_trusted(network: FakeNetwork) -> None:
    assert await determine_trust_anchor(URL, None) == tls_trust.SYSTEM_TRUST
    assert await determine_trust_anchor("http://attic", None) == tls_trust.SYSTEM_TRUST
    assert network.requests == []


async def test_a_token_of_tls_is_not_used_without(network: FakeNetwork) -> None:
    with pytest.raises(SetupError, match="join it as https://attic"):
        await determine_trust_anchor("http://attic", "fingerprint")
    assert network.requests == []


async def test_a_certificate_that_the_system_trusts_is_not_pinned(network: FakeNetwork) -> None:
    """It may be renewed at any time."""
    network.always(200, b"anything")
    assert await determine_trust_anchor(URL, "fingerprint") == tls_trust.SYSTEM_TRUST


async def test_another_certificate_is_pinned_if_the_token_names_it(network: FakeNetwork, anchor: str) -> None:
    offered = [anchor.encode()]

    def answer(_method: str, _url: str) -> tuple[int, Mapping[str, str], bytes]:
        verify = network.requests[-1][2]
        if verify is None:
            raise join_client._NoResponse("certificate verify failed")
        assert verify.verify_mode is ssl.CERT_NONE
        return 200, {}, offered[0]

    network.answer = answer
    assert await determine_trust_anchor(URL, tls_trust.certificate_fingerprint(anchor)) == anchor
    other = create_authority().certificate
    for offered[0] in (other.encode(), anchor.encode() * 2, b"\xff", b""):
        with pytest.raises(SetupError, match="its certificate is another one"):
            await determine_trust_anchor(URL, tls_trust.certificate_fingerprint(anchor))
    # Nothing was sent but the question for the certificate.
    assert {method for method, _, _ in network.requests} == {"GET"}


async def test_the_balancer_of_a_membership_proves_itself(network: FakeNetwork) -> None:
    def prove(_method: str, url: str, secret: str = MEMBER.hop_credential) -> Any:
        query = parse_qs(urlsplit(url).query)
        [node_id], [nonce] = query["node"], query["nonce"]
        proof = tokens.balancer_challenge_response(secret, node_id, nonce)
        return 200, {}, msgspec.json.encode({"proof": proof})

    network.answer = prove
    assert await is_same_balancer(URL, MEMBER)
    # Each time with another question.
    assert await is_same_balancer(URL, MEMBER)
    assert network.requests[0][1] != network.requests[1][1]
    assert MEMBER.hop_credential not in network.requests[0][1]
    network.answer = lambda method, url: prove(method, url, "another secret")
    assert not await is_same_balancer(URL, MEMBER)
    network.always(404, error("no such node"))
    assert not await is_same_balancer(URL, MEMBER)


# --- leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"), [(204, None), (401, None), (500, "it answers 500"), (404, "it answers 404")]
)
async def test_a_balancer_that_is_told_of_the_leaving(
    network: FakeNetwork, status: int, reason: str | None
) -> None:
    network.always(status, b"")
    assert await notify_leave(MEMBER) == reason
    network.fail("it does not answer")
    assert await notify_leave(MEMBER) == "it does not answer"
