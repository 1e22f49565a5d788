"""Source selector on a fake clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llb.node.download.peer_fetch import PeerCopyFailed
from llb.node.download.source_selector import HashMismatchCause, PeerChoice, SourceSelector, WaitChoice
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import PeerSource

TIMEOUTS = DownloadTimeouts()
BEHIND = PeerCopyFailed("node a has not got so far", is_behind=True)
GONE = PeerCopyFailed("node a cannot be reached: the connection was refused")


def source(node_id: str) -> PeerSource:
    return PeerSource(node_id=node_id, node_name=node_id, address="http://127.0.0.1:1", tickets={})


A, B, C = source("a"), source("b"), source("c")


@dataclass
class SelectorFixture:
    """A selector with the sources, results and clock of the test."""

    sources: tuple[PeerSource, ...] = ()
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.selector = SourceSelector(lambda: self.sources, TIMEOUTS, clock=lambda: self.now)

    def next_source(self) -> str:
        """The next source, after the waits before it."""
        while isinstance(choice := self.selector.select_source(), WaitChoice):
            assert choice.delay_s > 0
            self.now += choice.delay_s
        return "hub" if choice is None else choice.source.node_id

    def fail(self, node: PeerSource, failure: PeerCopyFailed = BEHIND, gained_bytes: int = 0) -> None:
        if gained_bytes:
            self.selector.record_chunk(node, verified=False)
        self.selector.record_peer_end(node, gained_bytes, failure)

    def select_until_hub(self) -> list[str]:
        """The nodes selected before the Hub, none of which makes progress."""
        asked = []
        while (name := self.next_source()) != "hub":
            asked.append(name)
            self.fail(source(name))
        return asked


def test_without_other_nodes_the_hub_is_asked_at_once() -> None:
    assert SelectorFixture().selector.select_source() is None


def test_the_first_source_is_asked_first_and_may_keep_us_waiting() -> None:
    assert SelectorFixture((A, B)).selector.select_source() == PeerChoice(A, may_wait=True)


def test_as_long_as_the_first_source_is_only_behind_no_other_is_asked() -> None:
    fixture = SelectorFixture((A, B))
    began, asked = fixture.now, []
    while (name := fixture.next_source()) == "a":
        asked.append(name)
        fixture.fail(A)
    assert name == "b"
    assert fixture.now == pytest.approx(
        began + TIMEOUTS.first_peer_stall_timeout_s, abs=TIMEOUTS.peer_backoff_max_s
    )
    assert len(asked) < 12


def test_a_source_that_cannot_be_reached_is_passed_over_at_once() -> None:
    fixture = SelectorFixture((A, B))
    began = fixture.now
    assert fixture.next_source() == "a"
    fixture.fail(A, GONE)
    assert fixture.selector.select_source() == PeerChoice(B, may_wait=False)
    assert fixture.now == began


def test_the_hub_is_asked_when_none_has_sent_a_byte_for_a_while() -> None:
    for copies in ((A,), (A, B), (A, B, C)):
        fixture = SelectorFixture(copies)
        began = fixture.now
        assert set(fixture.select_until_hub()) == {each.node_id for each in copies}
        expected = TIMEOUTS.hub_fallback_delay_s + TIMEOUTS.hub_fallback_step_s * (len(copies) - 1)
        assert fixture.now - began == pytest.approx(expected, abs=TIMEOUTS.peer_backoff_max_s)


def test_who_stands_further_back_waits_longer_than_the_one_before_needs_to_be_asked() -> None:
    assert TIMEOUTS.hub_fallback_step_s > TIMEOUTS.peer_backoff_max_s


def test_a_byte_begins_the_wait_anew() -> None:
    fixture = SelectorFixture((A,))
    fixture.next_source()
    fixture.now += 14
    fixture.fail(A, gained_bytes=1)
    began = fixture.now
    fixture.select_until_hub()
    assert fixture.now - began >= TIMEOUTS.hub_fallback_delay_s


def test_a_source_that_did_well_is_asked_again_at_once() -> None:
    fixture = SelectorFixture((A, B))
    fixture.next_source()
    fixture.fail(A, gained_bytes=TIMEOUTS.backoff_reset_bytes)
    assert fixture.selector.select_source() == PeerChoice(A, may_wait=True)


def test_a_source_that_breaks_off_again_and_again_is_not_asked_without_a_pause() -> None:
    fixture = SelectorFixture((A,))
    fixture.next_source()
    fixture.fail(A, gained_bytes=10)
    assert isinstance(fixture.selector.select_source(), WaitChoice)


def test_while_the_hub_is_away_too_nodes_are_still_asked() -> None:
    fixture = SelectorFixture((A,))
    fixture.select_until_hub()
    fixture.selector.record_hub_failure(300.0, "waiting for the network: the Hub is away")
    until = fixture.now + 300
    assert len(fixture.select_until_hub()) > 100
    assert fixture.now == pytest.approx(until, abs=0.1)


def test_the_hub_has_a_pause_of_its_own() -> None:
    fixture = SelectorFixture()
    fixture.selector.record_hub_failure(7.0, "waiting for the network: no route")
    assert fixture.selector.select_source() == WaitChoice(7.0, "waiting for the network: no route")


def test_a_busy_source_says_when_to_come_back() -> None:
    fixture = SelectorFixture((A,))
    fixture.next_source()
    fixture.fail(A, PeerCopyFailed("node a is busy", retry_after_s=5.0))
    assert fixture.selector.select_source() == WaitChoice(5.0, "waiting for a copy: node a is busy")


def test_sources_that_are_named_later_count_at_once() -> None:
    fixture = SelectorFixture()
    fixture.selector.record_hub_failure(300.0, "away")
    fixture.sources = (B,)
    assert fixture.selector.select_source() == PeerChoice(B, may_wait=True)


def test_who_left_the_hub_to_look_is_kept_waiting_by_nobody() -> None:
    fixture = SelectorFixture((A,))
    fixture.select_until_hub()
    fixture.selector.record_chunk(None, verified=False)
    fixture.now += 30
    assert fixture.selector.select_source() == PeerChoice(A, may_wait=False)
    fixture.fail(A)
    assert fixture.selector.select_source() is None
    fixture.selector.record_hub_failure(300.0, "away")
    fixture.now += 30
    assert fixture.selector.select_source() == PeerChoice(A, may_wait=True)


def test_who_is_not_sent_by_the_best_knows_it() -> None:
    fixture = SelectorFixture((A, B))
    assert [fixture.selector.is_preferred_source(each) for each in (A, B, None)] == [True, False, False]
    fixture.sources = ()
    assert [fixture.selector.is_preferred_source(each) for each in (A, None)] == [True, True]


# --- wrong bytes ----------------------------------------------------------------------------------


def test_who_sent_from_a_verified_file_is_to_blame_and_not_asked_again() -> None:
    fixture = SelectorFixture((A, B))
    fixture.selector.record_chunk(A, verified=True)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    assert fixture.selector.usable_sources == (B,)


def test_who_passed_on_what_arrived_is_to_blame_the_second_time() -> None:
    fixture = SelectorFixture((A,))
    fixture.selector.record_chunk(A, verified=False)
    # It has verified its file meanwhile, too late for the bytes that it had sent.
    fixture.selector.record_chunk(A, verified=True)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=False)
    fixture.selector.record_chunk(A, verified=False)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    assert fixture.selector.usable_sources == ()


def test_the_hub_is_to_blame_only_for_what_it_sent_alone() -> None:
    fixture = SelectorFixture((A,))
    fixture.selector.record_chunk(A, verified=True)
    fixture.selector.record_chunk(None, verified=False)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    fixture.selector.record_chunk(None, verified=False)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=True)


def test_nobody_is_to_blame_for_what_may_have_lain_on_the_disk() -> None:
    fixture = SelectorFixture((A,))
    fixture.selector.record_disk_bytes()
    fixture.selector.record_chunk(A, verified=True)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=False)
    fixture.selector.record_chunk(A, verified=True)
    assert fixture.selector.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
