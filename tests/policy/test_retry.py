"""Retry policy: exclusion, further rounds, giving up."""

from __future__ import annotations

from llb.policy.retry import MAX_ROUNDS, RetryState


def always(_node_id: str) -> bool:
    return True


def never(_node_id: str) -> bool:
    return False


def test_a_node_that_refused_is_excluded_for_good() -> None:
    state = RetryState().after_node_failure("a", is_unreachable=False)
    assert state.excluded == {"a"}
    assert state.after_no_candidate(always) is None


def test_an_unreachable_node_is_tried_again_while_it_may_recover() -> None:
    state = RetryState().after_node_failure("a", is_unreachable=True)
    state = state.after_node_failure("b", is_unreachable=False)
    following = state.after_no_candidate(always)
    assert following == RetryState(excluded=frozenset({"b"}), round=2)


def test_a_node_that_is_gone_ends_the_request() -> None:
    state = RetryState().after_node_failure("a", is_unreachable=True)
    assert state.after_no_candidate(never) is None


def test_rounds_are_bounded() -> None:
    state: RetryState | None = RetryState()
    for _ in range(MAX_ROUNDS - 1):
        assert state is not None
        state = state.after_node_failure("a", is_unreachable=True).after_no_candidate(always)
    assert state is not None
    assert state.after_node_failure("a", is_unreachable=True).after_no_candidate(always) is None


def test_the_only_candidate_of_one_recovering_node_is_enough() -> None:
    state = RetryState().after_node_failure("a", is_unreachable=True)
    state = state.after_node_failure("b", is_unreachable=True)
    following = state.after_no_candidate(lambda node_id: node_id == "b")
    assert following is not None
    assert following.excluded == frozenset()


def test_a_crashed_engine_may_answer_in_the_next_round() -> None:
    state = RetryState().after_engine_crash("a", is_suspect=False)
    assert state is not None
    assert state.excluded == {"a"}
    following = state.after_no_candidate(never)
    assert following is not None
    assert following.excluded == frozenset()


def test_a_suspect_is_tried_once_more_and_others_twice() -> None:
    suspect = RetryState().after_engine_crash("a", is_suspect=True)
    assert suspect is not None
    assert suspect.is_suspect
    assert suspect.after_engine_crash("b", is_suspect=True) is None
    innocent = RetryState().after_engine_crash("a", is_suspect=False)
    assert innocent is not None
    innocent = innocent.after_engine_crash("b", is_suspect=False)
    assert innocent is not None
    assert innocent.after_engine_crash("c", is_suspect=False) is None
