"""Exchange with an engine: its lease, its permit, and what another host is asked."""

from __future__ import annotations

from typing import Any, cast

import pytest

from llb import errors
from llb.engine.lease import Lease
from llb.engine.watch_policy import EngineSpeed
from llb.gateway.engine_exchange import EngineExchange, target_of
from llb.gateway.engine_routes import Operation
from llb.gateway.http.client import JSON_HEADER
from llb.gateway.nodes.hop_path import hop_path
from llb.policy.keep_alive import KeepAlive
from llb.policy.routing import RequestEstimate
from tests.gateway.gateway_fixture import (
    BODY,
    LOCAL,
    PATH,
    FakeResponse,
    FakeSink,
    Gateway,
    broken,
    gateway_of,
    make_call,
)


async def test_the_engine_of_this_host_is_leased_and_suspected_after_a_failure() -> None:
    async with gateway_of(LOCAL) as gateway:
        gateway.engine_outcomes = [broken()]
        with pytest.raises(errors.EngineFailed):
            await gateway.dispatcher.dispatch(make_call(), FakeSink())
        [lease] = gateway.leases
        assert (lease.is_released, lease.suspected_failures) == (True, 1)
        assert len(gateway.closed_targets) == 1


async def test_counting_takes_no_slot_and_gives_its_permit_back() -> None:
    async with gateway_of("a") as gateway:
        gateway.admission.set_capacity("a", "m", 1)
        gateway.nodes.outcomes["a"] = [FakeResponse([b'{"input_tokens":3}'])]
        sink = FakeSink()
        await gateway.dispatcher.dispatch(make_call(operation=Operation.COUNTING), sink)
        assert sink.body == b'{"input_tokens":3}'


def exchange_of(gateway: Gateway, node_id: str, **options: Any) -> EngineExchange:
    """Exchange of a chat with a node."""
    return EngineExchange(
        gateway.context, make_call(**options), gateway.context.view.nodes[node_id], RequestEstimate()
    )


async def test_the_leased_engine_is_asked_at_its_address_with_its_key() -> None:
    async with gateway_of(LOCAL) as gateway:
        exchange = exchange_of(gateway, LOCAL, operation=Operation.EMBEDDINGS)
        exchange.call.record.trace_headers = ((b"traceparent", b"x"),)
        assert exchange.prepare_small()
        exchange.begin()
        target, method, path, headers, body = gateway.given[0]
        assert (target.host, target.port, target.api_key) == ("127.0.0.1", 1, "sk-engine")
        assert (method, path, body) == (b"POST", exchange.call.path, exchange.call.body)
        assert (b"traceparent", b"x") in headers
        # The next request needs the same target, whose connections it may use.
        assert target_of(cast(Lease, gateway.leases[0])) is target
        exchange.release()


async def test_without_a_wait_it_leases_what_is_loaded() -> None:
    async with gateway_of(LOCAL) as gateway:
        exchange = exchange_of(gateway, LOCAL)
        assert exchange.prepare_small()
        exchange.begin()
        [lease] = gateway.leases
        assert not lease.is_released
        exchange.release()
        gateway.is_loaded = False
        assert not exchange_of(gateway, LOCAL).prepare_small()


async def test_another_host_leases_an_engine_of_its_own() -> None:
    async with gateway_of("a") as gateway:
        exchange = exchange_of(gateway, "a", keep_alive=KeepAlive(90.0))
        assert exchange.prepare_small()
        exchange.begin()
        node_id, method, path, headers, body = gateway.nodes.given[0]
        assert gateway.nodes.options["own_header"] == (b"x-request-id", b"request-1")
        assert (node_id, method, headers) == ("a", b"POST", (JSON_HEADER,))
        assert path == hop_path(PATH, "m", 5.0, KeepAlive(90.0), EngineSpeed())
        # With fields behind it, so that the engine streams its progress.
        assert body.startswith(BODY[:-1] + b",")
        exchange.release()
    assert gateway.leases == []


async def test_an_engine_of_this_host_and_one_that_nobody_has_seen_are_new() -> None:
    async with gateway_of(LOCAL, "a") as gateway:
        assert [exchange_of(gateway, node_id).is_new for node_id in (LOCAL, "a")] == [True, True]
        gateway.context.view.nodes["a"].engines["m"] = None  # type: ignore[assignment]
        assert not exchange_of(gateway, "a").is_new
