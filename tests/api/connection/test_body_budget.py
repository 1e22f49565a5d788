"""Memory of request bodies: in all, of one key, and before any limit of a key."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from llb.api.connection.body_budget import PUBLIC_TOTAL_BYTES, BodyBudget
from llb.errors import RateLimited, ServerBusy
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Role
from tests.api.connection.raw import RawConnection, connect
from tests.harness import RunningBalancer, wait_until

MIB = 1024 * 1024
JSON_TYPE = b"Host: localhost\r\nContent-Type: application/json\r\n"


def budget_of(server: RunningBalancer) -> BodyBudget:
    budget: BodyBudget = server.sanic_app.ctx.connections.body_budget
    return budget


async def create_key(server: RunningBalancer, **limits: int) -> bytes:
    body: dict[str, Any] = {"name": "test", "scopes": ["inference"]}
    if limits:
        body["limits"] = limits
    key = (await server.http.post("/api/keys", json=body)).json()["key"]
    return f"Authorization: Bearer {key}\r\n".encode()


async def begin(
    stack: AsyncExitStack, server: RunningBalancer, key: bytes, sent_bytes: int, *, chunked: bool = False
) -> RawConnection:
    """Begin a request with a large body, of which only a part is sent."""
    connection = await stack.enter_async_context(connect(server.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON_TYPE + key
    if chunked:
        await connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (62 * MIB))
    else:
        await connection.send(head + b"Content-Length: %d\r\n\r\n" % (62 * MIB))
    connection.writer.write(b" " * sent_bytes)
    return connection


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_counts_as_a_request_of_its_key_from_its_head_on(
    server: RunningBalancer, chunked: bool
) -> None:
    key = await create_key(server, concurrent=1)
    async with AsyncExitStack() as stack:
        first = await begin(stack, server, key, 100, chunked=chunked)
        await wait_until(lambda: budget_of(server).used_bytes == 100)
        for _ in range(5):
            other = await begin(stack, server, key, 100, chunked=chunked)
            head = await other.read_head()
            assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
            assert b"\r\nRetry-After: 1\r\n" in head
        assert budget_of(server).used_bytes == 100
        first.writer.transport.abort()
        await wait_until(lambda: not budget_of(server).used_bytes)
        again = await begin(stack, server, key, 100, chunked=chunked)
        await wait_until(lambda: budget_of(server).used_bytes == 100)
        again.writer.transport.abort()


async def test_a_key_without_allowance_sends_no_large_body(server: RunningBalancer) -> None:
    key = await create_key(server, requests_per_minute=1)
    question = b'{"model": "none", "messages": []}'
    async with connect(server.port) as connection, AsyncExitStack() as stack:
        await connection.send(
            b"POST /v1/chat/completions HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b"
            % (JSON_TYPE, key, len(question), question)
        )
        await connection.read_response()
        limiter = server.app.accounts.rate_limiter
        for rate_limit in limiter._rate_limits.values():
            assert rate_limit.request_bucket is not None
            rate_limit.request_bucket.consume(1, limiter._clock())
        large = await begin(stack, server, key, 100)
        assert (await large.read_head()).startswith(b"HTTP/1.1 429 ")


async def test_the_bodies_of_a_key_and_of_all_are_bounded(server: RunningBalancer) -> None:
    budget = budget_of(server)
    budget.total_bytes, budget.owner_bytes = 6 * MIB, 4 * MIB
    keys = [await create_key(server) for _ in range(2)]
    async with AsyncExitStack() as stack:
        first = await begin(stack, server, keys[0], 3 * MIB)
        await wait_until(lambda: budget.used_bytes == 3 * MIB)
        # Another of the same key is too much for the key, then one of another key too much for all.
        refused = await begin(stack, server, keys[0], 2 * MIB)
        assert (await refused.read_head()).startswith(b"HTTP/1.1 429 ")
        await wait_until(lambda: budget.used_bytes == 3 * MIB)
        refused = await begin(stack, server, keys[1], 3 * MIB + 1)
        head = await refused.read_head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 2\r\n" in head
        await wait_until(lambda: budget.used_bytes == 3 * MIB)
        # Other clients are still served.
        assert (await server.http.get("/health")).status_code == 200
        first.writer.transport.abort()
        await wait_until(lambda: not budget.used_bytes)
    assert budget._used_by_owner == {}


async def test_a_body_counts_until_its_request_has_ended(server: RunningBalancer) -> None:
    budget = budget_of(server)
    key = await create_key(server)
    body = b'{"model": "none", "messages": [], "x": "%b"}' % (b"x" * MIB)
    async with connect(server.port) as connection:
        await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON_TYPE + key)
        await connection.send(b"Content-Length: %d\r\n\r\n" % len(body))
        await connection.send(body[:-1])
        await wait_until(lambda: budget.used_bytes == len(body) - 1)
        await connection.send(body[-1:])
        assert (await connection.read_response())[0] in (400, 404)
        assert budget.used_bytes == 0


async def test_what_anybody_may_send_is_bounded_together(server: RunningBalancer) -> None:
    budget = budget_of(server)
    budget.take("", PUBLIC_TOTAL_BYTES)
    async with connect(server.port) as connection:
        await connection.send(
            b"POST /api/auth/login HTTP/1.1\r\n" + JSON_TYPE + b"Content-Length: 1000\r\n\r\n{"
        )
        assert (await connection.read_head()).startswith(b"HTTP/1.1 503 ")
    budget.give_back("", PUBLIC_TOTAL_BYTES)


def test_a_budget_leaves_nothing_behind() -> None:
    budget = BodyBudget(1000 * MIB)
    person = Principal(kind=PrincipalKind.SESSION, id="s", role=Role.USER, user_id="u")
    share = budget.open(person)
    assert share is not None
    share.add(budget.owner_bytes)
    with pytest.raises(RateLimited):
        share.add(1)
    assert budget.used_bytes == budget.owner_bytes
    share.release()
    share.release()
    assert (budget.used_bytes, budget._used_by_owner) == (0, {})
    nobody = budget.open(None)
    assert nobody is not None
    with pytest.raises(ServerBusy):
        nobody.add(PUBLIC_TOTAL_BYTES + 1)
    assert budget.used_bytes == 0
    assert budget.open(Principal(kind=PrincipalKind.NODE, id="n", role=Role.USER)) is None


async def test_small_bodies_cost_no_bookkeeping(server: RunningBalancer) -> None:
    """One that comes with its head is not even counted."""
    key = await create_key(server, concurrent=1)
    answers = await asyncio.gather(*(small_request(server, key) for _ in range(5)))
    assert answers == [404] * 5


async def small_request(server: RunningBalancer, key: bytes) -> int:
    body = b'{"model": "none", "messages": []}'
    async with connect(server.port) as connection:
        await connection.send(
            b"POST /v1/chat/completions HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b"
            % (JSON_TYPE, key, len(body), body)
        )
        return (await connection.read_response())[0]
