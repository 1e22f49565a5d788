"""Who is asked for a file next, on a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llb.node.download.peer_fetch import PeerCopyFailed
from llb.node.download.source_selector import HashMismatchCause, PeerChoice, SourceSelector, WaitChoice
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import PeerSource

TIMING = DownloadTimeouts()
BEHIND = PeerCopyFailed("node a has not got so far", is_behind=True)
GONE = PeerCopyFailed("node a cannot be reached: the connection was refused")


def source(node_id: str) -> PeerSource:
    return PeerSource(node_id=node_id, node_name=node_id, address="http://127.0.0.1:1", tickets={})


A, B, C = source("a"), source("b"), source("c")


@dataclass
class Play:
    """A download that gets as far as the test says."""

    copies: tuple[PeerSource, ...] = ()
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.turns = SourceSelector(lambda: self.copies, TIMING, clock=lambda: self.now)

    def next(self) -> str:
        """Who is asked next, after the waits in between."""
        while isinstance(turn := self.turns.select_source(), WaitChoice):
            assert turn.delay_s > 0
            self.now += turn.delay_s
        return "hub" if turn is None else turn.source.node_id

    def fails(self, node: PeerSource, failure: PeerCopyFailed = BEHIND, gained_bytes: int = 0) -> None:
        if gained_bytes:
            self.turns.record_chunk(node, verified=False)
        self.turns.record_peer_end(node, gained_bytes, failure)

    def ask_until_hub(self) -> list[str]:
        """The nodes that are asked, none of which gets any further, before the Hub is."""
        asked = []
        while (name := self.next()) != "hub":
            asked.append(name)
            self.fails(source(name))
        return asked


def test_without_other_nodes_the_hub_is_asked_at_once() -> None:
    assert Play().turns.select_source() is None


def test_the_first_source_is_asked_first_and_may_keep_us_waiting() -> None:
    assert Play((A, B)).turns.select_source() == PeerChoice(A, may_wait=True)


def test_as_long_as_the_first_source_is_only_behind_no_other_is_asked() -> None:
    play = Play((A, B))
    began, asked = play.now, []
    while (name := play.next()) == "a":
        asked.append(name)
        play.fails(A)
    assert name == "b"
    assert play.now == pytest.approx(began + TIMING.first_peer_stall_timeout_s, abs=TIMING.peer_backoff_max_s)
    assert len(asked) < 12


def test_a_source_that_cannot_be_reached_is_passed_over_at_once() -> None:
    play = Play((A, B))
    began = play.now
    assert play.next() == "a"
    play.fails(A, GONE)
    assert play.turns.select_source() == PeerChoice(B, may_wait=False)
    assert play.now == began


def test_the_hub_is_asked_when_none_has_sent_a_byte_for_a_while() -> None:
    for copies in ((A,), (A, B), (A, B, C)):
        play = Play(copies)
        began = play.now
        assert set(play.ask_until_hub()) == {each.node_id for each in copies}
        expected = TIMING.hub_fallback_delay_s + TIMING.hub_fallback_step_s * (len(copies) - 1)
        assert play.now - began == pytest.approx(expected, abs=TIMING.peer_backoff_max_s)


def test_who_stands_further_back_waits_longer_than_the_one_before_needs_to_be_asked() -> None:
    assert TIMING.hub_fallback_step_s > TIMING.peer_backoff_max_s


def test_a_byte_begins_the_wait_anew() -> None:
    play = Play((A,))
    play.next()
    play.now += 14
    play.fails(A, gained_bytes=1)
    began = play.now
    play.ask_until_hub()
    assert play.now - began >= TIMING.hub_fallback_delay_s


def test_a_source_that_did_well_is_asked_again_at_once() -> None:
    play = Play((A, B))
    play.next()
    play.fails(A, gained_bytes=TIMING.backoff_reset_bytes)
    assert play.turns.select_source() == PeerChoice(A, may_wait=True)


def test_a_source_that_breaks_off_again_and_again_is_not_asked_without_a_pause() -> None:
    play = Play((A,))
    play.next()
    play.fails(A, gained_bytes=10)
    assert isinstance(play.turns.select_source(), WaitChoice)


def test_while_the_hub_is_away_too_nodes_are_still_asked() -> None:
    play = Play((A,))
    play.ask_until_hub()
    play.turns.record_hub_failure(300.0, "waiting for the network: the Hub is away")
    until = play.now + 300
    assert len(play.ask_until_hub()) > 100
    assert play.now == pytest.approx(until, abs=0.1)


def test_the_hub_has_a_pause_of_its_own() -> None:
    play = Play()
    play.turns.record_hub_failure(7.0, "waiting for the network: no route")
    assert play.turns.select_source() == WaitChoice(7.0, "waiting for the network: no route")


def test_a_busy_source_says_when_to_come_back() -> None:
    play = Play((A,))
    play.next()
    play.fails(A, PeerCopyFailed("node a is busy", retry_after_s=5.0))
    assert play.turns.select_source() == WaitChoice(5.0, "waiting for a copy: node a is busy")


def test_sources_that_are_named_later_count_at_once() -> None:
    play = Play()
    play.turns.record_hub_failure(300.0, "away")
    play.copies = (B,)
    assert play.turns.select_source() == PeerChoice(B, may_wait=True)


def test_who_left_the_hub_to_look_is_kept_waiting_by_nobody() -> None:
    play = Play((A,))
    play.ask_until_hub()
    play.turns.record_chunk(None, verified=False)
    play.now += 30
    assert play.turns.select_source() == PeerChoice(A, may_wait=False)
    play.fails(A)
    assert play.turns.select_source() is None
    play.turns.record_hub_failure(300.0, "away")
    play.now += 30
    assert play.turns.select_source() == PeerChoice(A, may_wait=True)


def test_who_is_not_sent_by_the_best_knows_it() -> None:
    play = Play((A, B))
    assert [play.turns.is_preferred_source(each) for each in (A, B, None)] == [True, False, False]
    play.copies = ()
    assert [play.turns.is_preferred_source(each) for each in (A, None)] == [True, True]


# --- wrong bytes -------------------------------------------------------------------------------------


def test_who_sent_from_a_verified_file_is_to_blame_and_not_asked_again() -> None:
    play = Play((A, B))
    play.turns.record_chunk(A, verified=True)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    assert play.turns.usable_sources == (B,)


def test_who_passed_on_what_arrived_is_to_blame_the_second_time() -> None:
    play = Play((A,))
    play.turns.record_chunk(A, verified=False)
    play.turns.record_chunk(
        A, verified=True
    )  # meanwhile it has verified its file, too late for what it had sent
    assert play.turns.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=False)
    play.turns.record_chunk(A, verified=False)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    assert play.turns.usable_sources == ()


def test_the_hub_is_to_blame_only_for_what_it_sent_alone() -> None:
    play = Play((A,))
    play.turns.record_chunk(A, verified=True)
    play.turns.record_chunk(None, verified=False)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
    play.turns.record_chunk(None, verified=False)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=True)


def test_nobody_is_to_blame_for_what_may_have_lain_on_the_disk() -> None:
    play = Play((A,))
    play.turns.record_disk_bytes()
    play.turns.record_chunk(A, verified=True)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause((), is_hub_only=False)
    play.turns.record_chunk(A, verified=True)
    assert play.turns.handle_hash_mismatch() == HashMismatchCause(("a",), is_hub_only=False)
