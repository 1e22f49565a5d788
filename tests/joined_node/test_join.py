"""Joining: tokens, names, and the error messages of a host that cannot join."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llb.base import node_identity
from llb.cluster.join import join_client
from llb.errors import SetupError
from llb.security import tokens
from llb.store.tables import nodes
from llb.wire import MIN_PROTOCOL_VERSION, PROTOCOL_VERSION
from tests.conftest import BalancerFactory, JoinedNodeFactory
from tests.harness import RunningBalancer, RunningJoinedNode

NO_TOKEN = "llbj-of-nobody"


async def get_start_error(node: RunningJoinedNode) -> str:
    """The error of a failed start, which must leave nothing behind."""
    with pytest.raises(SetupError) as refused:
        await node.start()
    assert node_identity.read_membership(node.home) is None
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# --- joining --------------------------------------------------------------------------------------


async def test_a_host_joins_with_a_token_and_from_then_on_needs_none(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    first = node.id
    await node.stop()
    again = await make_node(llb, "garage", join_token=None).start()
    await again.wait_until_online()
    assert again.id == first
    nodes_json = (await llb.http.get("/api/nodes")).json()["nodes"]
    assert [(each["name"], each["status"]) for each in nodes_json] == [
        ("attic", "online"),
        ("garage", "online"),
    ]


async def test_what_a_host_keeps_of_it_is_its_owners_alone(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    file = node.home / "node.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    member = node_identity.read_membership(node.home)
    assert member is not None
    assert (member.balancer_url, member.name, member.node_id) == (llb.url, "garage", node.id)
    record = llb.app.cluster.members.get_record(node.id)
    assert record is not None
    # The balancer stores the node's credential as a hash, and its own credential in clear.
    assert member.credential not in str(record)
    assert record.hop_credential == member.hop_credential


async def test_a_stored_credential_is_used_and_a_token_beside_it_ignored(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    await node.stop()
    again = await make_node(llb, "garage", join_token=NO_TOKEN).start()
    await again.wait_until_online()


async def test_a_second_node_with_the_same_name_is_told_what_it_is_called(
    llb: RunningBalancer, make_node: JoinedNodeFactory, caplog: pytest.LogCaptureFixture
) -> None:
    node = await make_node(llb, "garage", name="Attic").start()
    await node.wait_until_online()
    assert "another node is already called Attic: this one is called Attic-2" in caplog.text
    assert llb.app.cluster.view.nodes[node.id].hello.name == "Attic-2"
    third = await make_node(llb, "cellar", name="attic").start()
    await third.wait_until_online()
    assert llb.app.cluster.view.nodes[third.id].hello.name == "attic-3"


async def test_a_name_of_the_greatest_length_is_numbered_too(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    name = "n" * 63
    await make_node(llb, "garage", name=name).start()
    second = await make_node(llb, "cellar", name=name).start()
    member = node_identity.read_membership(second.home)
    assert member is not None
    assert member.name == "n" * 61 + "-2"


async def test_a_name_that_is_changed_where_the_host_is_started_is_changed_here(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    await node.stop()
    node = await make_node(llb, "garage", name="shed").start()
    await node.wait_until_online()
    assert llb.app.cluster.view.nodes[node.id].hello.name == "shed"
    member = node_identity.read_membership(node.home)
    assert member is not None
    assert member.name == "shed"
    # A name given by an administrator is kept until the host is started with another name.
    await llb.http.patch(f"/api/nodes/{node.id}", json={"name": "workshop"})
    await node.stop()
    node = await make_node(llb, "garage", name="shed").start()
    await node.wait_until_online()
    assert llb.app.cluster.view.nodes[node.id].hello.name == "workshop"
    await node.stop()
    node = await make_node(llb, "garage", name="attic").start()
    await node.wait_until_online()
    assert llb.app.cluster.view.nodes[node.id].hello.name == "attic-2"


async def test_the_balancers_own_new_name_makes_way_for_a_nodes(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, caplog: pytest.LogCaptureFixture
) -> None:
    llb = await make_llb().start()
    await make_node(llb, "garage").start()
    await llb.stop()
    llb = await make_llb(name="garage").start()
    await llb.wait_until_online()
    assert "a joined node is already called garage: this host is called garage-2" in caplog.text
    assert sorted(node.hello.name for node in llb.app.cluster.view.nodes.values()) == ["garage", "garage-2"]


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_wrong_token(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    message = await get_start_error(make_node(llb, "garage", join_token=NO_TOKEN))
    assert message == "The join token is not known here: make one with 'llb join-token' on the balancer."


async def test_no_token(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    message = await get_start_error(make_node(llb, "garage", join_token=None))
    assert message.startswith(f"A token is needed to join {llb.url}: create one there with 'llb join-token'")


async def test_a_used_token(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    token = await llb.create_join_token()
    await make_node(llb, "garage", join_token=token).start()
    message = await get_start_error(make_node(llb, "cellar", join_token=token))
    assert message.startswith("The join token has already been used: each token admits one host")
    assert len(llb.app.cluster.view.nodes) == 2


async def test_an_expired_token(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    now = 1_800_000_000.0
    llb.app.cluster.admission._clock = lambda: now
    token = await llb.create_join_token()
    now += 3599
    early = make_node(llb, "early", join_token=await llb.create_join_token())
    await early.start()
    now += 1
    assert (await get_start_error(make_node(llb, "late", join_token=token))).startswith(
        "The join token has expired: make a new one"
    )
    # The reason is known for a week.
    now += 7 * 86_400
    assert "has expired" in await get_start_error(make_node(llb, "later", join_token=token))
    now += 1
    await llb.create_join_token()
    assert "not known here" in await get_start_error(make_node(llb, "latest", join_token=token))


async def test_of_two_hosts_with_the_same_token_at_the_same_instant_one_gets_in(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    token = await llb.create_join_token()
    hosts = [make_node(llb, name, join_token=token) for name in ("garage", "cellar", "shed")]
    ends = await asyncio.gather(*(host.start() for host in hosts), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, SetupError)]
    assert len(refused) == 2
    assert all("already been used" in str(each) for each in refused)
    assert len(llb.app.cluster.view.nodes) == 2


async def test_a_token_is_stored_as_a_hash_only(llb: RunningBalancer) -> None:
    token = await llb.create_join_token()
    [row] = await llb.app.db.fetch_all("SELECT * FROM join_tokens", ())
    assert token not in str(tuple(row))


async def test_no_token_is_made_while_everybody_knows_the_password(make_llb: BalancerFactory) -> None:
    llb = await make_llb(admin_password=None).start()
    answer = await llb.http.post("/api/nodes/join-tokens", json={})
    assert answer.status_code == 403
    assert answer.json()["error"]["message"].startswith("Change the default password first")


async def test_the_command_for_the_other_host_and_what_stands_in_its_way(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    made = (await llb.http.post("/api/nodes/join-tokens", json={})).json()
    assert made["command"] == f"./install.sh run --join {llb.url} --token {made['token']}"
    assert made["other_command"] == f"llb --join {llb.url} --token {made['token']}"
    assert "listens on loopback only" in made["hint"]
    assert made["hint_code"] == "only_loopback"
    await llb.stop()
    llb = await make_llb(host="0.0.0.0", advertise="http://attic.lan:8080").start()
    made = (await llb.http.post("/api/nodes/join-tokens", json={})).json()
    assert made["command"].startswith("./install.sh run --join http://attic.lan:8080 --token llbj-")
    assert (made["hint"], made["hint_code"]) == (None, None)


# --- other servers --------------------------------------------------------------------------------


async def test_an_address_where_nothing_answers(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    message = await get_start_error(make_node(llb, "garage", join="http://127.0.0.1:9", join_token=NO_TOKEN))
    assert (
        message
        == "The llb at http://127.0.0.1:9 cannot be reached (connection refused): check the address, and that"
        " it listens for other hosts (--host 0.0.0.0)."
    )


async def test_a_name_that_is_none(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    message = await get_start_error(
        make_node(llb, "garage", join="http://nowhere.invalid:8080", join_token=NO_TOKEN)
    )
    assert message.startswith("The llb at http://nowhere.invalid:8080 cannot be reached (")


@contextmanager
def run_foreign_server(
    status: int, body: bytes, headers: dict[str, str], gate: threading.Event | None = None
) -> Iterator[str]:
    """A server that is not an llb."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            if gate is not None:
                gate.wait(10)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "sentence"),
    [
        (200, b"<html>", {}, "is not an llb that hosts can join (200)"),
        (201, b"{}", {}, "is not an llb that hosts can join (201)"),
        (
            404,
            b'{"error": {"message": "File Not Found", "code": 404}}',
            {},
            "is not an llb that hosts can join (404)",
        ),
        (403, b"forbidden", {}, "is not an llb that hosts can join (403)"),
        (405, b'{"error": {"message": "no", "code": "no"}}', {}, "is not an llb that hosts can join (405)"),
        (301, b"", {"Location": "https://other.example/x"}, "redirects to https://other.example/x: give"),
        (201, b"x" * 1_000_000, {}, "is not an llb that hosts can join (201)"),
    ],
)  # fmt: skip
async def test_an_address_where_no_llb_answers(
    llb: RunningBalancer,
    make_node: JoinedNodeFactory,
    status: int,
    body: bytes,
    headers: dict[str, str],
    sentence: str,
) -> None:
    with run_foreign_server(status, body, headers) as url:
        message = await get_start_error(make_node(llb, "garage", join=url, join_token=NO_TOKEN))
    assert message.startswith(f"The server at {url} ")
    assert sentence in message


async def test_an_address_that_never_answers(
    llb: RunningBalancer, make_node: JoinedNodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_client, "REQUEST_TIMEOUT_S", 0.2)
    gate = threading.Event()
    with run_foreign_server(200, b"", {}, gate) as url:
        message = await get_start_error(make_node(llb, "garage", join=url, join_token=NO_TOKEN))
        gate.set()
    assert "cannot be reached (it does not answer)" in message


async def test_a_name_that_the_balancer_is_not_known_by(
    llb: RunningBalancer, make_node: JoinedNodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more)
    )
    url = llb.url.replace("127.0.0.1", "attic.example")
    message = await get_start_error(make_node(llb, "garage", join=url))
    assert (
        message
        == f"The llb at {url} does not accept that host name: join it by its IP address, or start it with "
        "--allowed-host attic.example."
    )


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [
        (PROTOCOL_VERSION + 1, "which is newer than the balancer's"),
        (MIN_PROTOCOL_VERSION - 1, "which is too old for the balancer's"),
    ],
)
async def test_a_protocol_that_the_balancer_does_not_speak(
    llb: RunningBalancer,
    make_node: JoinedNodeFactory,
    monkeypatch: pytest.MonkeyPatch,
    protocol: int,
    sentence: str,
) -> None:
    token = await llb.create_join_token()
    monkeypatch.setattr("llb.joined_node.PROTOCOL_VERSION", protocol)
    message = await get_start_error(make_node(llb, "garage", join_token=token))
    assert message.startswith("This node runs llb ")
    assert sentence in message
    # The token is still valid and can be used after the upgrade.
    monkeypatch.undo()
    await make_node(llb, "garage", join_token=token).start()


# --- joining itself -------------------------------------------------------------------------------


async def test_a_host_cannot_join_itself(
    llb: RunningBalancer, make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    node = make_node(llb, "copy")
    node.home.mkdir()
    await llb.app.db.backup(node.home / "llb.db")
    message = await get_start_error(node)
    assert message.startswith("This is the same llb, or a copy of its home directory")
    assert len(llb.app.cluster.view.nodes) == 1


async def test_a_host_cannot_join_its_own_node(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await llb.stop()
    itself = RunningJoinedNode(llb, llb.home, join=node.url, join_token=NO_TOKEN)
    assert (
        await get_start_error(itself)
    ) == "The llb at this address is a node of this host: a balancer cannot join its own node."


async def test_a_host_that_lends_itself_lets_nobody_in(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    message = await get_start_error(make_node(llb, "cellar", join=node.url))
    assert message == f"The llb at this address has joined another llb: join that one, at {llb.url}."


# --- another balancer -----------------------------------------------------------------------------


async def test_joining_another_llb_without_a_token_is_refused(
    llb: RunningBalancer, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(llb, "garage").start()
    await node.stop()
    with run_foreign_server(404, b"", {}) as url:
        elsewhere = make_node(llb, "garage", join=url, join_token=None)
        with pytest.raises(SetupError) as refused:
            await elsewhere.start()
    assert (
        str(refused.value)
        == f"This host has joined {llb.url}: run 'llb leave' first, or give the token of {url} with --token."
    )
    await (await make_node(llb, "garage").start()).wait_until_online()


async def test_joining_another_llb_with_its_token_leaves_the_first(
    llb: RunningBalancer, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    async with RunningBalancer(tmp_path / "other", **{**llb.settings, "name": "other"}) as other:
        node = await make_node(llb, "garage").start()
        await node.wait_until_online()
        before = node.id
        await node.stop()
        # A wrong token changes nothing.
        with pytest.raises(SetupError, match="not known here"):
            await make_node(other, "garage", join_token=NO_TOKEN).start()
        assert before in llb.app.cluster.view.nodes
        moved = await make_node(other, "garage", join_token=await other.create_join_token()).start()
        await moved.wait_until_online()
        assert before not in llb.app.cluster.view.nodes
        assert (await nodes.list_nodes(llb.app.db, include_removed=True))[-1].removed_at is not None
        await moved.stop()


async def test_a_balancer_at_another_address_is_still_the_nodes_own(
    make_llb: BalancerFactory, make_node: JoinedNodeFactory
) -> None:
    llb = await make_llb().start()
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    before = node.id
    await node.stop()
    await llb.stop()
    first_url = llb.url
    llb = await make_llb().start()
    assert llb.url != first_url
    # With or without a token, which is not used up. Its credential is sent only to a server that has proved
    # to know it.
    token = await llb.create_join_token()
    node = await make_node(llb, "garage", join_token=token).start()
    await node.wait_until_online()
    assert node.id == before
    member = node_identity.read_membership(node.home)
    assert member is not None
    assert member.balancer_url == llb.url
    await make_node(llb, "cellar", join_token=token).start()
    await node.stop()
    with pytest.raises(SetupError, match="cannot be reached"):
        await make_node(llb, "garage", join=first_url).start()


async def test_who_only_knows_of_a_node_proves_nothing(
    llb: RunningBalancer, make_node: JoinedNodeFactory, tmp_path: Path
) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    member = node.app.membership
    assert member is not None
    # Neither another llb nor a server that passes the challenge on to the node itself.
    nonce = "balancer:1"
    answer = (await node.http.get(f"/hop/proof?nonce={nonce}")).json()["proof"]
    assert answer != tokens.balancer_challenge_response(member.hop_credential, node.id, nonce)
    for query in (
        f"node={node.id}&nonce=",
        f"node={node.id}",
        "node=x&nonce=1",
        f"node={node.id}&nonce={'x' * 129}",
    ):
        assert (await llb.http.get(f"/api/nodes/proof?{query}")).status_code == 404
    own = (await llb.http.get(f"/api/nodes/proof?node={node.id}&nonce=1")).json()["proof"]
    assert own == tokens.balancer_challenge_response(member.hop_credential, node.id, "1")
    async with RunningBalancer(tmp_path / "other", **{**llb.settings, "name": "other"}) as other:
        assert not await join_client.is_same_balancer(other.url, member)
        with run_foreign_server(200, b'{"proof": "x"}', {}) as url:
            assert not await join_client.is_same_balancer(url, member)
