"""Route policies: every route has exactly one."""

from __future__ import annotations

from typing import Any

import pytest
from sanic import Request, Sanic
from sanic.response import HTTPResponse

from llb.api.middleware.route_policy import RoutePolicyError, public, route_policy_of, route_policy_table
from llb.wire import Scope
from tests.api.http_server import ApiServer


async def test_every_route_of_the_app_has_exactly_one_rule(server: ApiServer) -> None:
    app = next(iter(Sanic._app_registry.values()))
    table = {(method, path): policy for method, path, policy in route_policy_table(app)}
    assert table["POST", "/api/auth/login"].public
    assert table["GET", "/api/users"].scope is Scope.ADMIN
    assert not table["GET", "/api/keys"].public
    assert table["GET", "/ws"].unless_exposed


def test_a_route_without_a_rule_and_one_with_two_are_mistakes() -> None:
    async def handler(_: Request) -> HTTPResponse:
        return HTTPResponse()

    app: Sanic[Any, Any] = Sanic("forgetful", configure_logging=False)
    try:
        app.add_route(handler, "/forgotten")
        app.finalize()
        with pytest.raises(RoutePolicyError, match="/forgotten"):
            route_policy_of(app.router.routes[0])
    finally:
        Sanic.unregister_app(app)
    with pytest.raises(RoutePolicyError, match="two route policies"):
        public(public(handler))
