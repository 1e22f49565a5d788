"""Spill rules: where requests go when the places of their model cannot answer."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

SpillTrigger = Literal["unavailable", "busy", "context", "error"]


class SpillRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a request for a model goes instead: `target` is the name of a model, here or at an endpoint.

    `after_s` is the longest wait for a slot before `busy` applies.
    """

    target: str
    when: tuple[SpillTrigger, ...] = ("unavailable",)
    after_s: float = 0.0


class SpillRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules of one model, in the order in which they apply."""

    routes: tuple[SpillRule, ...] = ()


class ModelSpillRules(Struct, frozen=True, kw_only=True):
    model: str
    routes: tuple[SpillRule, ...]


class SpillRuleList(Struct, frozen=True):
    models: tuple[ModelSpillRules, ...]
