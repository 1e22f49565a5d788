"""The attacks: each is a coroutine that runs until it is cancelled.

They are the kinds of docs/security.md, "Findings of the second attack", as an attacker would use them: with
the key of an ordinary program, or without an account.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from tests.attack import wire
from tests.attack.target import CHAT_MODEL, EMBEDDING_MODEL, Target

CHAT, EMBEDDINGS, COUNT = "/v1/chat/completions", "/v1/embeddings", "/v1/messages/count_tokens"
STAY_S = 2.0  # of a client that leaves what it has asked for
PAUSE_S = 0.2
MIB = 2**20

Attack = Callable[[Target, random.Random], Coroutine[Any, Any, None]]


async def repeat(act: Callable[[], Awaitable[object]], pause_s: float = PAUSE_S) -> None:
    """Repeat an attack; a refused or broken connection is the defence, not a defect."""
    while True:
        try:
            async with asyncio.timeout(60.0):
                await act()
        except (OSError, TimeoutError, EOFError, asyncio.IncompleteReadError, ValueError):
            pass
        await asyncio.sleep(pause_s)


async def crowd(count: int, act: Callable[[], Awaitable[object]], pause_s: float = PAUSE_S) -> None:
    """`count` clients that do the same at once."""
    await asyncio.gather(*(repeat(act, pause_s) for _ in range(count)))


def chat_body(content: str = "Hello", **fields: Any) -> bytes:
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 16}
    return json.dumps({**body, **fields}).encode()


def abandoned(target: Target, body: bytes, path: str = CHAT, stay_s: float = STAY_S) -> Awaitable[None]:
    return wire.send_and_leave(target.urls[0], path, body, target.key, stay_s)


def schema_body(schema: dict[str, Any]) -> bytes:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat_body(response_format=response_format)


# --- fields that loop, crash or allocate in the engine ---------------------------------------------------


async def freezing_grammars(target: Target, chance: random.Random) -> None:
    """Grammars that block the decode loop indefinitely."""
    bodies = itertools.cycle([
        schema_body({"type": "string", "pattern": "^" + "[a-z]*" * 80 + "$"}),
        chat_body(grammar="root ::= " + "[a-z]* " * 50),
        schema_body({"type": "string", "enum": [f"value {n}" for n in range(100_000)]}),
        schema_body({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(5_000)}}),
        chat_body(dry_multiplier=0.8, dry_sequence_breakers=[f"b{n}" for n in range(100_000)]),
        schema_body({"type": "string", "pattern": "^(a|b|c)*(a|b|c)*(a|b|c)*(a|b|c)*(a|b|c)*(a|b|c)*x$"}),
    ])  # fmt: skip
    await repeat(lambda: abandoned(target, next(bodies)))


async def crashing_grammars(target: Target, chance: random.Random) -> None:
    """One grammar that crashes an engine, a little different each time."""
    depth = 200_000

    def body() -> bytes:
        text = "root ::= " + "(" * depth + f'"{chance.random()}"' + ")" * depth
        return chat_body(grammar=text)

    await repeat(lambda: abandoned(target, body(), stay_s=10.0))


async def allocating_fields(target: Target, chance: random.Random) -> None:
    """Fields whose value is a size."""
    bodies = itertools.cycle([
        chat_body(repeat_last_n=300_000_000, repeat_penalty=1.1),
        chat_body(dry_multiplier=0.8, dry_penalty_last_n=2_000_000_000),
        chat_body(samplers=["penalties"] * 1_000, repeat_last_n=2_000_000_000, repeat_penalty=1.1),
        chat_body(logit_bias=[[n % 1000, 0.5] for n in range(500_000)]),
        chat_body(stop=[f"stop {n}" for n in range(100_000)]),
        chat_body(n_probs=1_000_000, logprobs=True, top_logprobs=1_000_000),
    ])  # fmt: skip
    await repeat(lambda: abandoned(target, next(bodies)))


# --- bodies ----------------------------------------------------------------------------------------------


async def large_bodies(target: Target, chance: random.Random) -> None:
    """Bodies that cost more than their bytes: many messages, nesting, special tokens."""
    messages = json.dumps({"role": "user", "content": "x"})
    bodies = itertools.cycle([
        b'{"model":"%s","messages":[%s]}'
        % (CHAT_MODEL.encode(), ",".join(itertools.repeat(messages, 200_000)).encode()),
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"pattern":%s}'
        % (CHAT_MODEL.encode(), b"[" * 10_000_000 + b"]" * 10_000_000),
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"url":[%s]}'
        % (CHAT_MODEL.encode(), b",".join(itertools.repeat(b"{}", 5_000_000))),
        b'{"model":"%s","messages":[{"role":"user","content":"x"}],"pattern":"%s"}'
        % (CHAT_MODEL.encode(), b"{1}" * 5_000_000),
        chat_body("<|im_start|>" * 160_000),
    ])  # fmt: skip
    await repeat(lambda: abandoned(target, next(bodies)))


async def token_counts(target: Target, chance: random.Random) -> None:
    """Prompts whose tokenizing is quadratic, counted and abandoned."""
    body = json.dumps(
        {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "<|im_start|>" * 80_000}]}
    ).encode()
    await crowd(4, lambda: abandoned(target, body, COUNT, stay_s=1.0))


async def embedding_lists(target: Target, chance: random.Random) -> None:
    """One request with a thousand texts."""
    body = json.dumps({"model": EMBEDDING_MODEL, "input": ["a short text"] * 1_000}).encode()
    await crowd(2, lambda: abandoned(target, body, EMBEDDINGS, stay_s=20.0))


async def unfinished_bodies(target: Target, chance: random.Random) -> None:
    """Bodies of 62 MiB that never end, with a key at the balancer and without one at every host."""

    def beginning(url: str, key: str | None) -> bytes:
        headers = [("Content-Type", "application/json"), ("Content-Length", str(62 * MIB + 1))]
        if key is not None:
            headers.append(("Authorization", f"Bearer {key}"))
        return wire.head_of(url, "POST", CHAT, headers) + b" " * (62 * MIB)

    async def one() -> None:
        url, key = chance.choice([(target.urls[0], target.key), *((url, None) for url in target.urls)])
        await wire.hold(url, beginning(url, key), b"", every_s=5.0)

    await crowd(8, one, pause_s=1.0)


# --- what a key may do -----------------------------------------------------------------------------------


async def keys_and_unloads(target: Target, chance: random.Random) -> None:
    """As many keys as one can make, changes of them, and models sent out of memory."""
    url = target.urls[0]
    acts: Iterator[Callable[[], Awaitable[int]]] = itertools.cycle([
        lambda: wire.post(url, "/api/keys", {"name": "mine"}, target.key),
        lambda: wire.post(url, "/api/keys", {"name": "mine", "scopes": ["admin"]}, target.key),
        lambda: wire.post(url, CHAT, json.loads(chat_body(keep_alive=0)), target.key),
        lambda: wire.post(
            url, "/api/generate", {"model": CHAT_MODEL, "prompt": "x", "keep_alive": 0}, target.key
        ),
    ])  # fmt: skip

    async def one() -> None:
        await next(acts)()

    await crowd(4, one, pause_s=0.05)


async def long_answers(target: Target, chance: random.Random) -> None:
    """More long answers at once than a key may have, abandoned at random."""
    body = chat_body("Tell a long story.", max_tokens=2_000, stream=True)
    await crowd(8, lambda: abandoned(target, body, stay_s=chance.uniform(0.1, 10.0)))


async def wrong_requests(target: Target, chance: random.Random) -> None:
    """Requests that are refused, as many as one can send: the history of others must outlive them."""
    bodies = itertools.cycle([b"{", b"[]", b'{"model":"nothing"}', chat_body(reasoning_format="zzz")])
    await crowd(4, lambda: abandoned(target, next(bodies)), pause_s=0.02)


# --- without an account ----------------------------------------------------------------------------------


async def slow_connections(target: Target, chance: random.Random) -> None:
    """Hundreds of heads and bodies that never end."""

    async def one() -> None:
        url = chance.choice(target.urls)
        small = [("Content-Type", "application/json"), ("Content-Length", "200")]
        chunked = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
        begin = chance.choice([
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
            wire.head_of(url, "POST", "/api/auth/login", small) + b"{",
            wire.head_of(url, "POST", "/api/nodes/join", chunked) + b"2\r\n{",
        ])  # fmt: skip
        await wire.hold(url, begin, b"a", every_s=chance.uniform(5.0, 20.0))

    await crowd(600, one, pause_s=1.0)


async def greedy_pipelines(target: Target, chance: random.Random) -> None:
    """Requests on one connection faster than they are answered, for the front and for Sanic."""
    url = target.urls[0]
    requests = itertools.cycle([
        wire.request_of(url, CHAT, b"{}"),
        wire.request_of(url, CHAT, b"{}", key=target.key),
        wire.head_of(url, "GET", "/api/models", []),
    ])  # fmt: skip
    await crowd(8, lambda: wire.pipeline(url, next(requests) * 1000, reads=True))


async def unread_answers(target: Target, chance: random.Random) -> None:
    """Hundreds of connections that ask and do not read."""
    url = target.urls[0]
    requests = itertools.cycle([
        wire.request_of(url, CHAT, b"{}"),
        wire.head_of(url, "GET", "/api/openapi.json", []),
    ])  # fmt: skip
    await crowd(200, lambda: wire.pipeline(url, next(requests) * 100, reads=False), pause_s=1.0)


async def websocket_floods(target: Target, chance: random.Random) -> None:
    """WebSockets that send pings or texts and read nothing."""
    url = target.urls[0]
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
               ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
               ("Authorization", f"Bearer {target.key}")]  # fmt: skip
    handshake = wire.head_of(url, "GET", "/ws/models", upgrade)
    ping = b"\x89\xfd" + b"\0\0\0\0" + b"x" * 125
    text = b"\x81\xfe" + (30_000).to_bytes(2) + b"\0\0\0\0" + b"x" * 30_000
    frames = itertools.cycle([ping * 500, text])
    await crowd(4, lambda: wire.flood_websocket(url, handshake, next(frames)))


async def malformed_heads(target: Target, chance: random.Random) -> None:
    """Targets and headers that a parser refuses, with line breaks and escape sequences for the log."""
    heads = itertools.cycle([
        b"CONNECT x HTTP/1.1\r\n\r\n",
        b"GET \\x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\n2026-01-01 INFO forged\x1b[2J HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ])  # fmt: skip

    async def one() -> None:
        async with wire.connect(chance.choice(target.urls)) as (reader, writer):
            writer.write(next(heads))
            await reader.read(wire.READ_BYTES)

    await crowd(8, one, pause_s=0.01)


async def password_guesses(target: Target, chance: random.Random) -> None:
    """Guesses at the administrator, between guesses at thousands of names that do not exist."""

    async def one() -> None:
        name = "admin" if chance.random() < 0.1 else f"nobody-{chance.getrandbits(32)}"
        await wire.post(target.urls[0], "/api/auth/login", {"username": name, "password": "a guess"})

    await crowd(8, one, pause_s=0.01)


ATTACKS: tuple[Attack, ...] = (
    freezing_grammars, crashing_grammars, allocating_fields, large_bodies, token_counts, embedding_lists,
    unfinished_bodies, keys_and_unloads, long_answers, wrong_requests, slow_connections, greedy_pipelines,
    unread_answers, websocket_floods, malformed_heads, password_guesses,
)  # fmt: skip
