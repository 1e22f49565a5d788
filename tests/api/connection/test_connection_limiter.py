"""Which connection makes room, and how many one address may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.api.connection import connection_limiter
from llb.api.connection.connection_limiter import (
    MAX_ANONYMOUS_PER_ADDRESS,
    MAX_CONNECTIONS,
    ConnectionLimiter,
    EvictionRank,
    max_connections_for,
    network_of,
)
from llb.api.middleware.client_info import parse_trusted_proxies
from llb.config import make_config


class FakeConnection:
    def __init__(self, limiter: ConnectionLimiter, rank: EvictionRank) -> None:
        self.eviction_rank = rank
        self.is_open = True
        self.unread_bytes = 0
        self._limiter = limiter

    def evict(self) -> None:
        self.is_open = False

    def check_deadline(self, now: float) -> None:
        pass


def open_connections(
    limiter: ConnectionLimiter, *ranks: EvictionRank, address: str = "127.0.0.1"
) -> list[FakeConnection]:
    connections = [FakeConnection(limiter, rank) for rank in ranks]
    assert all(limiter.admit(connection, address) for connection in connections)
    return connections


async def test_the_oldest_that_waits_for_its_client_makes_room_first() -> None:
    limiter = ConnectionLimiter(max_connections=5)
    working, body, idle, old_head, new_head = open_connections(
        limiter,
        EvictionRank.WORKING,
        EvictionRank.BODY,
        EvictionRank.IDLE,
        EvictionRank.ANONYMOUS_HEAD,
        EvictionRank.ANONYMOUS_HEAD,
    )
    for expected in (old_head, new_head, idle, body):
        open_connections(limiter, EvictionRank.WORKING)
        assert not expected.is_open
    assert not limiter.admit(FakeConnection(limiter, EvictionRank.WORKING), "127.0.0.1")
    assert working.is_open
    assert len(limiter) == 5


async def test_answers_that_are_not_read_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limiter, "MAX_UNREAD_BYTES", 1000)
    limiter = ConnectionLimiter()
    small, large, anonymous, reading = open_connections(
        limiter, EvictionRank.BODY, EvictionRank.BODY, EvictionRank.ANONYMOUS_HEAD, EvictionRank.WORKING
    )
    small.unread_bytes, large.unread_bytes, anonymous.unread_bytes = 300, 600, 100
    limiter._sweep()
    assert len(limiter) == 4
    small.unread_bytes = 900
    limiter._sweep()
    assert [each.is_open for each in (small, large, anonymous, reading)] == [False, True, False, True]
    assert len(limiter) == 2
    for connection in (large, reading):
        limiter.remove(connection)


async def test_a_connection_whose_request_has_come_meanwhile_is_kept() -> None:
    limiter = ConnectionLimiter(max_connections=3)
    first, second, third = open_connections(limiter, *[EvictionRank.ANONYMOUS_HEAD] * 3)
    open_connections(limiter, EvictionRank.WORKING)
    second.eviction_rank = EvictionRank.WORKING
    open_connections(limiter, EvictionRank.WORKING)
    assert [each.is_open for each in (first, second, third)] == [False, True, False]


@pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"])
async def test_one_address_without_a_credential_holds_a_limited_number(address: str) -> None:
    limiter = ConnectionLimiter(max_connections=10_000)
    held = open_connections(
        limiter, *[EvictionRank.ANONYMOUS_HEAD] * (MAX_ANONYMOUS_PER_ADDRESS + 10), address=address
    )
    assert len(limiter) == MAX_ANONYMOUS_PER_ADDRESS
    assert not any(each.is_open for each in held[:10])
    # Those with a credential do not count.
    for connection in held[10:]:
        limiter.on_authenticated(connection)
    open_connections(limiter, *[EvictionRank.WORKING] * MAX_ANONYMOUS_PER_ADDRESS, address=address)
    assert all(each.is_open for each in held[10:])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", ""])
async def test_addresses_with_many_clients_behind_them_hold_any_number(address: str, tmp_path: Path) -> None:
    proxies = parse_trusted_proxies(make_config(home=tmp_path, trusted_proxies=("10.0.0.0/8",)))
    limiter = ConnectionLimiter(max_connections=10_000, trusted_proxies=proxies)
    open_connections(limiter, *[EvictionRank.ANONYMOUS_HEAD] * 1000, address=address)
    assert len(limiter) == 1000


def test_one_customer_of_ipv6_is_one_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") != network_of("2001:db8:0:1::1")


def test_descriptors_are_kept_for_the_rest_of_the_program() -> None:
    assert max_connections_for(1024) == 448
    assert max_connections_for(65_536) == MAX_CONNECTIONS
    assert max_connections_for(64) == 16
