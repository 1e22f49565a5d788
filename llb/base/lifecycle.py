"""Lifecycle: state changes checked against a transition table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

State = TypeVar("State")


class IllegalTransition(RuntimeError):
    """A state change that the transition table does not contain: a defect of the caller."""


def check_transition(
    transitions: Mapping[State, frozenset[State]], old_state: State, new_state: State, *, subject: str
) -> None:
    """Raise `IllegalTransition`, with `subject` in its message, unless the table allows the change."""
    if new_state not in transitions[old_state]:
        raise IllegalTransition(f"{subject}: {old_state} → {new_state}")
