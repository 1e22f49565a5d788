"""Lifecycle: the transition check."""

from __future__ import annotations

import pytest

from llb.base.lifecycle import IllegalTransition, check_transition

TRANSITIONS = {"idle": frozenset({"busy"}), "busy": frozenset({"idle"})}


def test_a_transition_in_the_table_passes() -> None:
    check_transition(TRANSITIONS, "idle", "busy", subject="engine x")


@pytest.mark.parametrize("new_state", ["idle", "gone"])
def test_any_other_transition_raises_and_names_the_subject(new_state: str) -> None:
    with pytest.raises(IllegalTransition, match=f"engine x: idle → {new_state}"):
        check_transition(TRANSITIONS, "idle", new_state, subject="engine x")
