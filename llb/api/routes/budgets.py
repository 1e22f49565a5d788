"""Budget routes: list and replace."""

from __future__ import annotations

from collections.abc import Callable

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response
from llb.errors import InvalidRequest
from llb.gateway.spend.budget_ledger import BudgetLedger
from llb.store.database import Database
from llb.store.tables import keys
from llb.texts.coded_text import CodedText
from llb.wire import BudgetList, BudgetScope, NewBudget, NewBudgets, Scope

MAX_BUDGETS = 1000
MAX_LIMIT_USD = 1_000_000_000
ProviderLookup = Callable[[str], bool]


def budgets_blueprint(
    db: Database, ledger: BudgetLedger, is_provider: ProviderLookup, audit: AuditLog
) -> Blueprint:
    """`/api/budgets`."""
    blueprint = Blueprint("budgets")

    @blueprint.get("/api/budgets", name="list")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "List the budgets",
        description="With what was used of each in its present day or month of UTC.",
        response=BudgetList,
    )
    async def list_budgets(_request: Request) -> HTTPResponse:
        await ledger.refresh()
        return json_response(BudgetList(ledger.views()))

    @blueprint.put("/api/budgets", name="replace")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Replace all budgets",
        description="What was spent stays. A budget never applies to a model that costs nothing.",
        body=NewBudgets,
        response=BudgetList,
        errors=(InvalidRequest,),
    )
    async def replace(request: Request) -> HTTPResponse:
        wanted = parse_body(request, NewBudgets).budgets
        await _validate(db, wanted, is_provider)
        async with audit.recording(request, "budgets.change", f"{len(wanted)} budgets"):
            await ledger.replace_budgets(wanted)
        return json_response(BudgetList(ledger.views()))

    return blueprint


async def _validate(db: Database, wanted: tuple[NewBudget, ...], is_provider: ProviderLookup) -> None:
    if len(wanted) > MAX_BUDGETS:
        raise InvalidRequest(
            CodedText("budgets_too_many", "At most {number} budgets are accepted", number=MAX_BUDGETS),
            param="budgets",
        )
    if len({(budget.scope, budget.id, budget.period) for budget in wanted}) < len(wanted):
        raise InvalidRequest(
            CodedText("budgets_twice", "There may be one budget for each scope, id and period"),
            param="budgets",
        )
    for budget in wanted:
        if not 0 <= budget.limit_usd <= MAX_LIMIT_USD:
            raise InvalidRequest(
                CodedText("budget_limit", "limit_usd must be between 0 and {max}", max=MAX_LIMIT_USD),
                param="limit_usd",
            )
        if budget.scope is BudgetScope.KEY:
            known = await keys.get(db, budget.id) is not None
        else:
            known = is_provider(budget.id)
        if not known:
            raise InvalidRequest(
                CodedText("budget_no_owner", "There is no {scope} '{id}'", scope=budget.scope, id=budget.id),
                param="id",
            )
