"""Spill rules of all models, in memory and in the database, and how often each was used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from llb import errors
from llb.policy.endpoints.spill import MAX_RULES, MAX_WAIT_S
from llb.store.database import Database
from llb.store.tables import endpoints
from llb.texts.coded_text import CodedText
from llb.wire import SpillRule, SpillTrigger


class SpillBook:
    """Rules by the id of their model. Off for a model without rules."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._rules: dict[str, tuple[SpillRule, ...]] = {}
        # Uses by model, target and trigger.
        self.uses: Counter[tuple[str, str, SpillTrigger]] = Counter()

    async def start(self) -> None:
        self._rules = await endpoints.list_spill_rules(self._db)

    def rules_of(self, model_id: str) -> tuple[SpillRule, ...]:
        return self._rules.get(model_id, ())

    def all_rules(self) -> dict[str, tuple[SpillRule, ...]]:
        """Return the rules of every model that has some."""
        return dict(self._rules)

    async def set_rules(
        self, model_id: str, rules: tuple[SpillRule, ...], resolve: Callable[[str], str]
    ) -> None:
        """Set the rules of a model, none to remove them; `resolve` returns the id of a model by its name.

        Raises `InvalidRequest`, and what `resolve` does.
        """
        if len(rules) > MAX_RULES:
            raise errors.InvalidRequest(
                CodedText("routes_too_many", "routes must have at most {number} entries", number=MAX_RULES),
                param="routes",
            )
        for rule in rules:
            if not rule.when:
                raise errors.InvalidRequest(
                    CodedText("routes_no_trigger", "when needs at least one trigger"), param="when"
                )
            if not 0 <= rule.after_s <= MAX_WAIT_S:
                raise errors.InvalidRequest(
                    CodedText(
                        "routes_wait_rule", "after_s must be between 0 and {max}", max=f"{MAX_WAIT_S:g}"
                    ),
                    param="after_s",
                )
            if resolve(rule.target) == model_id:
                raise errors.InvalidRequest(
                    CodedText("routes_self", "target is the model itself"), param="target"
                )
        async with self._db.write() as tx:
            await endpoints.put_spill_rules(tx, model_id, rules)
        if rules:
            self._rules[model_id] = rules
        else:
            self._rules.pop(model_id, None)
