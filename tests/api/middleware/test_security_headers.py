"""Security headers of every response."""

from __future__ import annotations

import pytest

from tests.api.http_server import ApiServer


@pytest.mark.parametrize(
    ("path", "status"), [("/open", 200), ("/any", 401), ("/nothing", 404), ("/crash", 500)]
)
async def test_every_answer_carries_an_id_and_the_security_headers(
    server: ApiServer, path: str, status: int
) -> None:
    response = await server.call("GET", path, ("X-Request-ID", "my-id.1"))
    assert response.status == status
    assert response.header_values("x-request-id") == ["my-id.1"]
    rules = str(response.header("content-security-policy")).split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(rules)
    assert {"require-trusted-types-for 'script'", "trusted-types llb dompurify"} <= set(rules)
    assert not [rule for rule in rules if "unsafe" in rule or "*" in rule or "http" in rule]
    assert "camera=()" in str(response.header("permissions-policy"))
    assert response.header("x-content-type-options") == "nosniff"
    assert response.header("referrer-policy") == "no-referrer"
    assert response.header("cache-control") == "no-store"
    assert response.header("content-type") == "application/json"
