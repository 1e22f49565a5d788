"""Large bodies at a joined node: passed through, and never held."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.connection.raw import connect
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until
from tests.joined_node.credentials import QUESTION, bearer

MIB = 1024 * 1024


def large_request(key: str, *, chunked: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (62 * MIB)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\n%b\r\n\r\n" % (key.encode(), length)
    )


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_not_read_before_the_balancer_has_accepted_its_head(
    cluster: tuple[RunningBalancer, RunningJoinedNode], chunked: bool
) -> None:
    _, node = cluster
    for key in ("sk-nobody", ""):
        async with connect(node.port) as connection:
            await connection.send(large_request(key, chunked=chunked))
            assert (await connection.read_head()).split()[1] == b"401"
    assert node.sanic_app.ctx.connections.body_budget.used_bytes == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_passes_through(
    cluster: tuple[RunningBalancer, RunningJoinedNode], chunked: bool
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    budget = llb.sanic_app.ctx.connections.body_budget
    sent = b" " * (3 * MIB)
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=chunked))
        await connection.send(b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent)
        # The balancer has all of it; the joined host nothing.
        await wait_until(lambda: budget.used_bytes == len(sent))
        assert node.sanic_app.ctx.connections.body_budget.used_bytes == 0
    # A client that leaves is noticed by both.
    await wait_until(lambda: not budget.used_bytes)
    await wait_until(lambda: not node.app.in_flight._count)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_with_a_large_body_is_answered(
    cluster: tuple[RunningBalancer, RunningJoinedNode], anonymous_client: httpx.AsyncClient, chunked: bool
) -> None:
    llb, _ = cluster
    key = bearer(await llb.create_key("inference"))
    body = json.dumps(QUESTION).encode()[:-1] + b" " * MIB + b"}"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for _ in range(2):
        answer = await anonymous_client.post(
            "/v1/chat/completions",
            content=pieces() if chunked else body,
            headers={**key, "Content-Type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0


async def test_a_client_that_waits_for_permission_gets_it_from_the_balancer(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    for credential, status in ((key, b"100"), ("sk-nobody", b"401")):
        async with connect(node.port) as connection:
            head = large_request(credential).removesuffix(b"\r\n")
            await connection.send(head + b"Expect: 100-continue\r\n\r\n")
            assert (await connection.read_head()).split()[1] == status


async def test_a_body_that_breaks_off_or_is_too_large_is_told(
    cluster: tuple[RunningBalancer, RunningJoinedNode],
) -> None:
    llb, node = cluster
    key = await llb.create_key("inference")
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=True) + b'5\r\n{"a":\r\nzz\r\n')
        assert (await connection.read_response())[0] == 400
    async with connect(node.port) as connection:
        await connection.send(large_request(key).replace(b"%d" % (62 * MIB), b"%d" % (65 * MIB)))
        assert (await connection.read_response())[0] == 413
    async with connect(node.port) as connection:
        await connection.send(large_request(key, chunked=True) + b"%x\r\n" % (65 * MIB))
        assert (await connection.read_response())[0] == 413
    await wait_until(lambda: not llb.sanic_app.ctx.connections.body_budget.used_bytes)
