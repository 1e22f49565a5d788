"""Spill rules: which failure of a model leads to which other one. Pure.

Without a rule nothing goes elsewhere. The rules of the target do not apply again, so there are no chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llb import errors
from llb.wire import SpillRule, SpillTrigger

MAX_RULES = 16
MAX_WAIT_S = 3600.0
# The nearest base class counts, from the top.
_TRIGGERS: tuple[tuple[type[errors.LlbError], SpillTrigger], ...] = (
    (errors.ContextLengthExceeded, "context"),
    (errors.QueueTimeout, "busy"),
    (errors.QueueFull, "busy"),
    (errors.EndpointRateLimited, "error"),
    (errors.EndpointUnavailable, "unavailable"),
    (errors.BudgetExceeded, "unavailable"),
    (errors.UpstreamError, "error"),
    (errors.Unavailable, "unavailable"),
    (errors.ModelNotRegistered, "unavailable"),
    (errors.InsufficientResources, "unavailable"),
)


def trigger_of(error: errors.LlbError) -> SpillTrigger | None:
    """Return the trigger of a failure; None for one that every other target would have as well."""
    return next((trigger for base, trigger in _TRIGGERS if isinstance(error, base)), None)


def matching_rules(rules: Sequence[SpillRule], trigger: SpillTrigger | None) -> Iterator[SpillRule]:
    """Yield the rules that apply to a failure, in their order."""
    return (rule for rule in rules if trigger in rule.when)


def busy_wait_s(rules: Sequence[SpillRule]) -> float | None:
    """Return the longest wait for a slot before a rule applies; None if none does."""
    return min((rule.after_s for rule in rules if "busy" in rule.when), default=None)


def has_rule(rules: Sequence[SpillRule], trigger: SpillTrigger) -> bool:
    return any(trigger in rule.when for rule in rules)
