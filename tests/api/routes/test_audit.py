"""Audit trail route."""

from __future__ import annotations

from tests.api.http_server import ApiServer


async def test_the_audit_trail_over_http_is_paged(server: ApiServer) -> None:
    admin = await server.log_in()
    first = (await server.call("GET", "/api/audit?limit=1", admin)).json
    [entry] = first["entries"]
    assert (entry["actor"], entry["action"], entry["address"]) == ("admin", "login", "127.0.0.1")
    assert entry["time"].endswith("Z")
    rest = (await server.call("GET", f"/api/audit?before={first['next_cursor']}", admin)).json
    assert [item["action"] for item in rest["entries"]] == ["user.create"]
    assert rest["next_cursor"] is None
    for wrong in ("limit=0", "limit=x", "limit=1001", "before=-1", f"before={2**63}", "limit=%D9%A3"):
        assert (await server.call("GET", f"/api/audit?{wrong}", admin)).status == 400
