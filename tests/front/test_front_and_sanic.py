"""The front and Sanic give the same answers, on one connection and in order."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from llb.front.protocol import FrontProtocol, InferenceFront
from tests.api.connection.raw import RawConnection, connect, exchange
from tests.harness import RunningBalancer, wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0, "seed": 1}
# With a cookie a request is Sanic's.
SERVERS = {"front": "", "sanic": "Cookie: theme=dark\r\n"}
# Parts that differ from answer to answer.
_CHANGING = re.compile(
    rb"(?i)(x-request-id|request-id): [^\r]*|content-length: [^\r]*"
    rb"|\b(chatcmpl-|msg_|resp_|req_)[A-Za-z0-9_-]+"
    rb'|"request_id":"[^"]*"'
    rb'|"(created_at|created)":"?[^",}]*|"[a-z_]+":[-+0-9.e]+'
)


def comparable(text: bytes) -> list[bytes]:
    """What two answers to one request have in common; the order of headers means nothing."""
    # Sanic's first app of a process leaves it out.
    return sorted(_CHANGING.sub(b"~", line) for line in text.split(b"\r\n") if line != b"alt-svc: ")


def request_bytes(
    path: str, body: dict[str, Any] | bytes, *, served_by: str = "front", headers: str = "", key: str = ""
) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    credential = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{credential}"
        f"{SERVERS[served_by]}{headers}Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def read_answer(connection: RawConnection) -> tuple[bytes, bytes]:
    """Head and body of the next response, of a length or in chunks."""
    head = await connection.read_head()
    return head, await read_body(connection, head)


async def read_body(connection: RawConnection, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head.lower():
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        return await connection.reader.readexactly(length)
    body = b""
    async with asyncio.timeout(20):
        while size := int(await connection.reader.readuntil(b"\r\n"), 16):
            body += (await connection.reader.readexactly(size + 2))[:-2]
        await connection.reader.readexactly(2)
    return body


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that the front has taken."""
    paths: list[str] = []
    schedule = InferenceFront.schedule

    def noting(self: InferenceFront, connection: Any) -> None:
        paths.append(connection._request.path)
        schedule(self, connection)

    monkeypatch.setattr(InferenceFront, "schedule", noting)
    return paths


MESSAGES: dict[str, Any] = {**QUESTION, "model": "chat"}
# Without a field that has to be checked on its own.
PLAIN = {name: value for name, value in MESSAGES.items() if name != "seed"}
CASES: dict[str, tuple[str, Any, str]] = {
    "plain chat": (CHAT, PLAIN, ""),
    "plain stream": (CHAT, {**PLAIN, "stream": True}, ""),
    "document": (CHAT, MESSAGES, ""),
    "stream": (CHAT, {**MESSAGES, "stream": True}, ""),
    "query": ("/v1/messages?beta=true", MESSAGES, "anthropic-version: 2023-06-01\r\n"),
    "Anthropic's stream": ("/v1/messages", {**MESSAGES, "stream": True}, ""),
    "Responses": ("/v1/responses", {"model": "chat", "input": "Hi", "max_output_tokens": 2}, ""),
    "Ollama": ("/api/chat", {**MESSAGES, "stream": False, "options": {"num_predict": 2, "seed": 1}}, ""),
    "Ollama's stream": ("/api/chat", {**MESSAGES, "options": {"num_predict": 2, "seed": 1}}, ""),
    "no model": (CHAT, {**MESSAGES, "model": "none"}, ""),
    "no JSON": (CHAT, b"{", ""),
    "no body": (CHAT, b"", ""),
    "error of Anthropic's": ("/v1/messages", {**MESSAGES, "model": "none"}, ""),
    "error of Ollama's": ("/api/chat", {**MESSAGES, "model": "none"}, ""),
    "another site": (CHAT, MESSAGES, "Origin: https://evil.example\r\n"),
    "two credentials": (CHAT, MESSAGES, "X-API-Key: sk-other\r\n"),
    "own request id": (CHAT, MESSAGES, f"X-Request-ID: mine\r\nTraceparent: 00-{'a' * 32}-{'b' * 16}-01\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_an_answer_is_the_same(server: RunningBalancer, taken: list[str], name: str) -> None:
    """The second one of a connection too, whose head is known already."""
    path, body, headers = CASES[name]
    key = await server.create_key("inference")
    answers = []
    for served_by in SERVERS:
        async with connect(server.port) as connection:
            for _ in range(2):
                await connection.send(
                    request_bytes(path, body, served_by=served_by, headers=headers, key=key)
                )
                head, answer = await read_answer(connection)
                answers.append((comparable(head), comparable(answer)))
    assert answers[1:] == answers[:1] * 3
    # Sanic answers requests without a body.
    assert taken == ([] if body == b"" else [path.partition("?")[0]] * 2)


async def test_a_body_without_a_type_is_refused_after_a_request_without_a_body(
    server: RunningBalancer,
) -> None:
    """A head without a body needs no type; the next one of the connection is examined again."""
    key = await server.create_key("inference")
    heads = []
    async with connect(server.port) as connection:
        for body in (b"", b"{}"):
            request = request_bytes(CHAT, body, key=key)
            await connection.send(request.replace(b"Content-Type: application/json\r\n", b""))
            heads.append((await read_answer(connection))[0].partition(b"\r\n")[0])
    assert heads == [b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 415 Unsupported Media Type"]


async def test_refusals_are_the_same(server: RunningBalancer) -> None:
    for headers in ("", "Authorization: Bearer sk-no\r\n", "Host: evil.example\r\n"):
        answers = []
        for served_by in SERVERS:
            async with connect(server.port) as connection:
                await connection.send(request_bytes(CHAT, MESSAGES, served_by=served_by, headers=headers))
                head, answer = await read_answer(connection)
                answers.append((comparable(head), comparable(answer)))
        assert answers[0] == answers[1]
        assert re.match(rb"HTTP/1.1 4\d\d", head)


async def test_each_request_has_the_id_that_its_client_gave_it(
    server: RunningBalancer, in_tasks: list[str]
) -> None:
    """The heads of a connection may differ in it, whatever stands first: the id or the length."""
    key = await server.create_key("inference")
    body = json.dumps(PLAIN).encode()
    for lines in (
        "X-Request-ID: {}\r\nContent-Length: {}\r\n",
        "Content-Length: {1}\r\nx-request-id:{0} \r\n",
    ):
        in_tasks.clear()
        async with connect(server.port) as connection:
            for request_id in ("first", "2", "a.b_c-d" * 9):
                content = body + b" " * len(request_id)
                head = (
                    f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
                    f"Content-Type: application/json\r\n{lines.format(request_id, len(content))}\r\n"
                )
                await connection.send(head.encode() + content)
                head_of_answer, _ = await read_answer(connection)
                assert head_of_answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert f"x-request-id: {request_id}\r\n" in head_of_answer.decode().lower()
        # Authentication has examined one of them.
        assert in_tasks == [CHAT]


async def test_pipelined_requests_are_answered_in_order_by_both(
    server: RunningBalancer, taken: list[str]
) -> None:
    key = await server.create_key("inference")
    kinds = [("front", CHAT), ("front", "/v1/messages"), ("sanic", CHAT), ("front", CHAT)]
    sent = b"".join(
        request_bytes(path, MESSAGES, served_by=served_by, headers=f"X-Request-ID: r{number}\r\n", key=key)
        for number, (served_by, path) in enumerate(kinds)
    )
    async with connect(server.port) as connection:
        await connection.send(sent + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for number in range(len(kinds)):
            head, body = await read_answer(connection)
            assert b"x-request-id: r%d\r\n" % number in head.lower()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n"), body
        head, _ = await read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    # Requests that arrive before Sanic's answer are Sanic's.
    assert taken == [CHAT, "/v1/messages"]


async def test_a_body_may_come_later(
    server: RunningBalancer, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once it is the front's, later Sanic's; a refusal does not wait for it."""
    given, give_to_sanic = asyncio.Event(), FrontProtocol.give_to_sanic

    def note_and_give(connection: FrontProtocol) -> None:
        give_to_sanic(connection)
        given.set()

    monkeypatch.setattr(FrontProtocol, "give_to_sanic", note_and_give)
    key = await server.create_key("inference")
    data = request_bytes(CHAT, MESSAGES, key=key)
    at = data.index(b"\r\n\r\n") + 4
    async with connect(server.port) as connection:
        await connection.send(data[:at])
        await connection.send(data[at:])
        assert (await read_answer(connection))[0].startswith(b"HTTP/1.1 200 OK\r\n")
        taken.clear()
        # A busy machine may have needed more than the 10 ms for the first one.
        given.clear()
        await connection.send(data[: at + 2])
        await given.wait()
        await connection.send(data[at + 2 :])
        assert (await read_answer(connection))[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert not taken
    unknown = request_bytes(CHAT, MESSAGES, key="sk-unknown")
    async with connect(server.port) as connection:
        await connection.send(unknown[: unknown.index(b"\r\n\r\n") + 4])
        assert (await connection.read_head()).startswith(b"HTTP/1.1 401 ")


async def test_a_revoked_key_is_refused_on_its_open_connection(server: RunningBalancer) -> None:
    made = (await server.http.post("/api/keys", json={"name": "brief", "scopes": ["inference"]})).json()
    data = request_bytes(CHAT, MESSAGES, key=made["key"])
    async with connect(server.port) as connection:
        for _ in range(2):
            await connection.send(data)
            assert (await read_answer(connection))[0].startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await server.http.delete(f"/api/keys/{made['id']}")).status_code == 204
        await connection.send(data)
        assert (await read_answer(connection))[0].startswith(b"HTTP/1.1 401 ")


async def test_a_client_that_closes_its_half_is_answered(server: RunningBalancer, taken: list[str]) -> None:
    key = await server.create_key("inference")
    answer = await exchange(server.port, request_bytes(CHAT, MESSAGES, key=key), half_close=True)
    assert b"HTTP/1.1 200 OK\r\n" in answer
    assert taken == [CHAT]


def busy_slots(server: RunningBalancer) -> int:
    return sum(node.busy for queue in server.app.gateway.admission.snapshot() for node in queue.nodes)


async def test_an_ordinary_request_takes_no_task(server: RunningBalancer, in_tasks: list[str]) -> None:
    data = request_bytes(CHAT, PLAIN, key=await server.create_key("inference"))
    async with connect(server.port) as connection:
        for _ in range(3):
            await connection.send(data)
            head, answer = await read_answer(connection)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b'"usage":{' in answer
    # Authentication examines the first.
    assert in_tasks == [CHAT]
    await wait_until(lambda: busy_slots(server) == 0)


async def open_endless_stream(server: RunningBalancer, connection: RawConnection, key: str) -> None:
    """Have a stream answered, as the second request of a connection."""
    await connection.send(request_bytes(CHAT, PLAIN, key=key))
    await read_answer(connection)
    endless = {**PLAIN, "max_tokens": 100_000, "stream": True}
    await connection.send(request_bytes(CHAT, endless, key=key))
    await connection.read_head()
    assert busy_slots(server) == 1


async def test_the_task_of_a_first_request_ends_after_authentication(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[bool | None] = []
    answer = InferenceFront.answer

    async def noting(self: InferenceFront, *arguments: Any) -> bool | None:
        outcomes.append(await answer(self, *arguments))
        return outcomes[-1]

    monkeypatch.setattr(InferenceFront, "answer", noting)
    data = request_bytes(CHAT, {**PLAIN, "stream": True}, key=await server.create_key("inference"))
    for _ in range(2):
        async with connect(server.port) as connection:
            await connection.send(data)
            head, events = await read_answer(connection)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert events.endswith(b"data: [DONE]\n\n")
    # The task of the very first one waits for the model, too; callbacks complete the second.
    assert outcomes[1] is None
    await wait_until(lambda: busy_slots(server) == 0)


async def test_a_client_that_leaves_gives_its_slot_back(server: RunningBalancer, taken: list[str]) -> None:
    key = await server.create_key("inference")
    async with connect(server.port) as connection:
        await open_endless_stream(server, connection, key)
        # It has shown a key, so it does not count as one of a stranger's.
        limiter = server.sanic_app.ctx.connections.limiter
        assert any(each.is_authenticated for each in limiter._connections if each.is_open)
    await wait_until(lambda: busy_slots(server) == 0)
    assert taken == [CHAT, CHAT]


async def test_a_stream_ends_with_its_key(server: RunningBalancer, in_tasks: list[str]) -> None:
    made = (await server.http.post("/api/keys", json={"name": "brief", "scopes": ["inference"]})).json()
    async with connect(server.port) as connection:
        await open_endless_stream(server, connection, made["key"])
        assert (await server.http.delete(f"/api/keys/{made['id']}")).status_code == 204
        tail = b""
        async with asyncio.timeout(20):
            while b"invalid_api_key" not in tail:
                tail = tail[-64:] + await connection.reader.read(65536)
    await wait_until(lambda: busy_slots(server) == 0)
    # Authentication examined the first request; the second had a task from its end on.
    assert in_tasks == [CHAT, CHAT]


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
FRAGMENTS = (
    request_bytes(CHAT, b"{}"),
    request_bytes(CHAT, b"{}", served_by="sanic"),
    request_bytes(CHAT, HEALTH + b"\r\n"),
    request_bytes("/v1/messages", b"{}"),
    HEALTH + b"\r\n",
    b"\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    POST + b"Content-Length : 2\r\n\r\n{}",
    POST.replace(b"localhost\r", b"localhost") + b"Content-Length: 2\r\n\r\n{}",
    POST.replace(b"1.1", b"1.0") + b"Content-Length: 2\r\n\r\n{}",
    POST + b"\r\n",
    b"POST /v1/chat/completions\r\nContent-Length: 2\r\n\r\n{}",
)
MUTATIONS = (b"\r", b"\n", b" ", b"0", b"9", b"\r\n", b":", b"\0", b"", b"\r\n\r\n")
# It ends the connection of a stream in order; what follows it ends that of a body that is not complete.
LAST_REQUEST = HEALTH + b"Connection: close\r\n\r\n" + b"x" * 1100


def streams() -> Iterator[bytes]:
    """Bytes of connections: any two fragments in a row, and mutated ones."""
    for first, second in itertools.product(FRAGMENTS, repeat=2):
        yield first + second
    chance = random.Random(19)
    for _ in range(150):
        data = bytearray(b"".join(chance.choices(FRAGMENTS[:5], k=2)))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.choice(
                (b"\r", b"\n", b" ", b"0", b"9", b"\r\n", b":", b"\0", b"", b"\r\n\r\n")
            )
        yield bytes(data)


async def test_front_and_sanic_split_no_bytes_differently(
    server: RunningBalancer, monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    """The same bytes, with the front in use and with Sanic alone."""

    async def statuses(data: bytes) -> list[bytes]:
        answer = await exchange(server.port, data + LAST_REQUEST)
        return re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)

    all_streams = list(dict.fromkeys(streams()))

    async def ask_all() -> list[list[bytes]]:
        found: list[list[bytes]] = []
        for begin in range(0, len(all_streams), 20):
            found += await asyncio.gather(*map(statuses, all_streams[begin : begin + 20]))
        return found

    with_front = await ask_all()
    assert len(taken) > 50
    monkeypatch.setattr(InferenceFront, "find_head", lambda _self, _data: None)
    without = await ask_all()
    for data, ours, theirs in zip(all_streams, with_front, without, strict=True):
        assert ours == theirs, data
