"""Request ids."""

from __future__ import annotations

import pytest

from tests.api.http_server import ApiServer


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", ""])
async def test_an_id_that_is_none_is_replaced(server: ApiServer, given: str) -> None:
    [own] = (await server.call("GET", "/open", ("X-Request-ID", given))).header_values("x-request-id")
    assert own
    assert own != given
