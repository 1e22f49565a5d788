"""TLS between hosts with self-signed certificates: trust anchors, renewal and impostors."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import httpx2
import openai
import pytest
from cryptography import x509

from llb.base import node_identity
from llb.config import make_config
from llb.errors import SetupError
from llb.security import tls_trust, tokens
from llb.security.certificates import CertificateAuthority, ServerTls, create_authority, issue_certificate
from llb.wire import ReachWay, ReplicaState
from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import PASSWORD, RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.fixture
async def chatting(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """A balancer with TLS whose local node holds no model; the model `chat` can be pulled."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    return await make_llb(catalog=catalog, memory_limit_bytes=1, tls="auto").start()


def anchor_of(host: RunningBalancer | RunningJoinedNode) -> str:
    assert host.app.tls is not None
    return host.app.tls.anchor


# --- one host -------------------------------------------------------------------------------------


async def test_browsers_programs_and_listeners_are_answered_over_tls_only(make_llb: BalancerFactory) -> None:
    llb = await make_llb(tls="auto").start()
    await llb.wait_until_online()
    answer = await llb.http.get("/api/tls/certificate")
    assert (answer.text, answer.headers["content-type"]) == (
        anchor_of(llb),
        "application/x-pem-file",
    )

    answer = await llb.http.post(
        "/api/auth/login", json={"username": "admin", "password": PASSWORD}, headers={"Authorization": ""}
    )
    assert answer.status_code == 200
    assert "; Secure" in answer.headers["set-cookie"]

    async with llb.open_event_stream() as reader:
        assert b"hello" in (await reader.recv(decode=False)).lower()

    key = await llb.create_key("inference")
    async with openai.AsyncOpenAI(
        base_url=llb.url + "/v1", api_key=key, http_client=httpx2.AsyncClient(verify=llb.ssl_context or True)
    ) as client:
        assert [model.id async for model in client.models.list()] == []

    async with httpx.AsyncClient(trust_env=False, timeout=60) as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.get(llb.url + "/health")
        with pytest.raises(httpx.TransportError):
            await stranger.get(llb.url.replace("https", "http") + "/health")


async def test_it_is_the_same_host_after_a_restart_and_a_restore(
    make_llb: BalancerFactory, tmp_path: Path
) -> None:
    llb = await make_llb(tls="auto").start()
    before, key_before = anchor_of(llb), (llb.home / "tls.pem").read_bytes()
    saved = tmp_path / "saved.db"
    await llb.app.db.backup(saved)
    assert (llb.home / "tls.pem").stat().st_mode & 0o777 == 0o600
    await llb.stop()
    await llb.start()
    assert anchor_of(llb) == before
    # Issued again by the same authority.
    assert (llb.home / "tls.pem").read_bytes() != key_before
    assert before.encode() not in saved.read_bytes()[:100]
    assert b"tls_authority" in saved.read_bytes()


async def test_a_plain_host_has_no_certificate(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    answer = await llb.http.get("/api/tls/certificate")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_who_never_shakes_hands_delays_nobody(make_llb: BalancerFactory) -> None:
    llb = await make_llb(tls="auto").start()
    silent = [await asyncio.open_connection("127.0.0.1", llb.port) for _ in range(20)]
    assert (await llb.http.get("/health")).status_code == 200
    for _, writer in silent:
        writer.close()


# --- own certificate ------------------------------------------------------------------------------


@dataclass
class CertificateFiles:
    """A certificate file and its key file."""

    directory: Path
    authority: CertificateAuthority = field(default_factory=create_authority)

    def write(self) -> None:
        pem = issue_certificate(self.authority, ("localhost", "127.0.0.1"))[0].decode()
        key, _, certificate = pem.partition("-----BEGIN CERTIFICATE-----")
        (self.directory / "key.pem").write_text(key)
        (self.directory / "cert.pem").write_text("-----BEGIN CERTIFICATE-----" + certificate)

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert": self.directory / "cert.pem", "tls_key": self.directory / "key.pem"}


async def test_a_certificate_of_ones_own_and_its_renewal_while_running(
    make_llb: BalancerFactory, tmp_path: Path
) -> None:
    pair = CertificateFiles(tmp_path)
    pair.write()
    llb = await make_llb(**pair.settings).start()
    context = tls_trust.get_client_context(pair.authority.certificate)

    async def get_served_certificate() -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", llb.port, ssl=context)
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.close()
        return found.getpeercert(binary_form=True) or b""

    before = await get_served_certificate()
    assert tls_trust.certificate_fingerprint(anchor_of(llb)) == tls_trust.certificate_fingerprint(
        ssl.DER_cert_to_PEM_cert(before)
    )
    tls = llb.app.tls
    assert tls is not None
    pair.write()
    (tmp_path / "key.pem").rename(tmp_path / "away")
    with pytest.raises(OSError, match="No such file"):
        tls.renew_if_needed()
    # Half of a new pair does not replace anything.
    assert await get_served_certificate() == before
    (tmp_path / "away").rename(tmp_path / "key.pem")
    tls.renew_if_needed()
    assert await get_served_certificate() != before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tls_cert": Path("cert.pem")}, "must be given together"),
        ({"tls_cert": Path("missing.pem"), "tls_key": Path("key.pem")}, "No such file"),
        ({"tls_cert": Path("cert.pem"), "tls_key": Path("other.pem")}, "KEY_VALUES_MISMATCH"),
        ({"tls_cert": Path("key.pem"), "tls_key": Path("key.pem")}, "cannot be used"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_told_in_a_sentence(
    make_llb: BalancerFactory, tmp_path: Path, settings: dict[str, Path], sentence: str
) -> None:
    pair = CertificateFiles(tmp_path)
    pair.write()
    (tmp_path / "key.pem").rename(tmp_path / "other.pem")
    pair.write()
    with pytest.raises(SetupError, match=sentence):
        await make_llb(**{name: tmp_path / path for name, path in settings.items()}).start()


def test_a_certificate_of_a_clock_that_was_ahead_is_replaced(tmp_path: Path) -> None:
    tls = ServerTls(make_config(home=tmp_path, tls="auto"))
    tls._authority = create_authority()
    tls._issue_certificate(tls._authority)
    first = (tmp_path / "tls.pem").read_bytes()
    # It is valid from next year on.
    tls._expires_at += datetime.timedelta(days=365)
    tls.renew_if_needed()
    assert (tmp_path / "tls.pem").read_bytes() != first
    second = (tmp_path / "tls.pem").read_bytes()
    tls.renew_if_needed()
    assert (tmp_path / "tls.pem").read_bytes() == second


def test_a_new_certificate_is_made_in_time_and_for_new_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ServerTls(make_config(home=tmp_path, tls="auto"))
    tls._authority = create_authority()
    tls._issue_certificate(tls._authority)
    first = (tmp_path / "tls.pem").read_bytes()
    tls.renew_if_needed()
    assert (tmp_path / "tls.pem").read_bytes() == first
    monkeypatch.setattr("llb.security.certificates.RENEW_BEFORE_DAYS", 400)
    tls.renew_if_needed()
    second = (tmp_path / "tls.pem").read_bytes()
    assert second != first
    monkeypatch.undo()
    monkeypatch.setattr("llb.security.certificates.list_host_addresses", lambda: ["192.0.2.7"])
    tls.renew_if_needed()
    assert (tmp_path / "tls.pem").read_bytes() not in (first, second)


def test_the_names_of_the_certificate_have_no_ports(tmp_path: Path) -> None:
    allowed = ("llm.example:8443", "other.example", "[2001:db8::1]:443", "[2001:db8::2]")
    tls = ServerTls(make_config(home=tmp_path, tls="auto", allowed_hosts=allowed))
    tls._issue_certificate(create_authority())
    [certificate, _] = x509.load_pem_x509_certificates((tmp_path / "tls.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"llm.example", "other.example"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert {"2001:db8::1", "2001:db8::2"} <= addresses


# --- joining --------------------------------------------------------------------------------------


async def test_link_hops_and_copies_go_over_tls_without_anybodys_authority(
    chatting: RunningBalancer, make_node: JoinedNodeFactory, hub: HubStandIn
) -> None:
    node = await make_node(chatting, "garage").start()
    await node.wait_until_online()
    # Without a setting.
    assert node.url.startswith("https:")
    assert node_identity.read_membership(node.home) == node.app.membership
    assert node.app.agent.balancer_anchor == anchor_of(chatting)
    way = chatting.app.cluster.node_connections.route_of(node.id)
    assert way is not None
    assert (way.kind, way.target.trust_anchor) == (ReachWay.DIRECT, anchor_of(node))

    await chatting.pull_model("chat")
    answer = await chatting.http.post("/v1/chat/completions", json=HELLO)
    assert (answer.status_code, answer.headers["x-llb-node"]) == (200, "garage")
    # The node's proxy uses TLS to the balancer, too.
    key = await chatting.create_key("inference")
    through = await node.http.post(
        "/v1/chat/completions", json=HELLO, headers={"Authorization": f"Bearer {key}"}
    )
    assert through.status_code == 200

    second = await make_node(chatting, "cellar").start()
    await second.wait_until_online()
    copied = chatting.app.cluster.view.nodes[second.id].replicas

    def ready() -> bool:
        return "chat" in copied and copied["chat"].state is ReplicaState.READY

    await wait_until(ready)
    # The second node copied it from the first one.
    assert len(hub.byte_requests("chat.gguf")) == 1


async def test_a_node_that_speaks_no_tls_is_asked_over_the_connections_that_it_dials(
    chatting: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(chatting, "garage", tls="off").start()
    await node.wait_until_online()
    way = chatting.app.cluster.node_connections.route_of(node.id)
    assert way is not None
    assert (way.kind, way.base_url) == (ReachWay.REVERSE, None)
    await chatting.pull_model("chat")
    assert (await chatting.http.post("/v1/chat/completions", json=HELLO)).status_code == 200


async def test_an_llb_without_tls_takes_nodes_with_it(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb(memory_limit_bytes=1).start()
    node = await make_node(llb, "garage", tls="auto").start()
    await node.wait_until_online()
    way = llb.app.cluster.node_connections.route_of(node.id)
    assert way is not None
    assert (way.kind, way.target.trust_anchor) == (ReachWay.DIRECT, anchor_of(node))


# --- impostors ------------------------------------------------------------------------------------


@dataclass
class Impostor:
    """A server with its own certificate at an address; `received` is everything sent to it."""

    port: int
    received: bytes = b""
    handshake_failed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def impostor(
    directory: Path, port: int = 0, *, certificate: str | None = None
) -> AsyncIterator[Impostor]:
    """Run an impostor that presents `certificate` as the certificate of the llb."""
    (directory / "impostor.pem").write_bytes(issue_certificate(create_authority(), ("127.0.0.1",))[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "impostor.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.received += await reader.read(65_536)
        body = (certificate or "").encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
        )
        writer.close()

    def on_loop_exception(loop: asyncio.AbstractEventLoop, _told: dict[str, object]) -> None:
        state.handshake_failed.set()

    asyncio.get_running_loop().set_exception_handler(on_loop_exception)
    server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=context)
    state = Impostor(server.sockets[0].getsockname()[1])
    try:
        yield state
    finally:
        server.close()


@pytest.mark.parametrize("certificate_source", ["its own", "the real one"])
async def test_the_token_is_not_sent_to_a_host_with_another_certificate(
    chatting: RunningBalancer, make_node: JoinedNodeFactory, tmp_path: Path, certificate_source: str
) -> None:
    token = await chatting.create_join_token()
    assert tokens.split_join_token(token)[1] == tls_trust.certificate_fingerprint(anchor_of(chatting))
    certificate = (
        anchor_of(chatting) if certificate_source == "the real one" else create_authority().certificate
    )
    async with impostor(tmp_path, certificate=certificate) as between:
        node = make_node(chatting, "garage", join=f"https://127.0.0.1:{between.port}", join_token=token)
        sentence = (
            "cannot be reached" if certificate_source == "the real one" else "its certificate is another one"
        )
        with pytest.raises(SetupError, match=sentence):
            await node.start()
        assert between.received.startswith(b"GET /api/tls/certificate ")
        assert between.received.count(b"HTTP/1.1") == 1
        assert tokens.split_join_token(token)[0].encode() not in between.received
    assert node_identity.read_membership(tmp_path / "garage") is None


async def test_a_token_with_a_fingerprint_is_not_told_without_tls(
    chatting: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    plain = chatting.url.replace("https", "http")
    with pytest.raises(SetupError, match=f"join it as {chatting.url}"):
        await make_node(chatting, "garage", join=plain).start()


async def test_a_joined_host_tells_nothing_to_who_took_its_balancers_place(
    chatting: RunningBalancer, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    node = await make_node(chatting, "garage").start()
    await node.wait_until_online()
    port = chatting.port
    await chatting.stop()
    async with impostor(tmp_path, port) as between:
        await wait_until(lambda: "certificate" in (node.app.problem or ""))
        assert between.received == b""
    await chatting.start(port)
    await node.wait_until_online()


async def test_a_node_that_moves_to_another_address_knows_its_balancer(
    chatting: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(chatting, "garage").start()
    await node.wait_until_online()
    await node.stop()
    node.settings |= {"join": chatting.url.replace("127.0.0.1", "localhost"), "join_token": None}
    await node.start()
    await node.wait_until_online()
    assert node.app.membership is not None
    assert node.app.membership.anchor == anchor_of(chatting)


def test_what_is_no_anchor() -> None:
    good = create_authority().certificate
    tls_trust.get_client_context(good)
    assert tls_trust.display_fingerprint(good).count(":") == 31
    for bad in (
        "nonsense",
        good + good,
        good[:200],
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "é",
    ):
        with pytest.raises(ValueError, match="certificate"):
            tls_trust.get_client_context(bad)
