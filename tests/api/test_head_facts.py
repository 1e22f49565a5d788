"""Facts of a request's head."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from sanic.compat import Header

from llb.api.head_facts import MAX_VIA_CHARS, facts_of
from llb.api.incoming_request import IncomingRequest
from tests.api.http_server import ApiServer


def test_a_long_via_keeps_the_last_hops() -> None:
    """A client cannot hide that a request has passed: its own entries are the first ones."""
    headers = Header([("via", "1.1 x," * MAX_VIA_CHARS), ("via", "1.1 llb-own")])
    request = cast(IncomingRequest, SimpleNamespace(headers=headers, ctx=SimpleNamespace()))
    via = facts_of(request).via
    assert via.endswith("1.1 llb-own")
    assert len(via) == MAX_VIA_CHARS


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", ""])
async def test_an_id_that_is_none_is_replaced(server: ApiServer, given: str) -> None:
    [own] = (await server.call("GET", "/open", ("X-Request-ID", given))).header_values("x-request-id")
    assert own
    assert own != given
