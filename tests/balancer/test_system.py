"""`/api/system`: what every reader of models may see of the host, and what only an administrator may."""

from __future__ import annotations

import httpx
import pytest

from llb.config import SETTINGS
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD, RunningBalancer


async def test_an_administrator_sees_the_settings_in_effect(make_llb: BalancerFactory) -> None:
    llb = await make_llb(keep_alive_s=90.0, hub_token="hf_s3cret").start()
    answer = await llb.http.get("/api/system")
    system = answer.json()
    assert [setting["environment"] for setting in system["settings"]] == [setting.env for setting in SETTINGS]
    settings = {setting["name"]: setting for setting in system["settings"]}
    assert settings["keep_alive"] == {
        "name": "keep_alive",
        "flag": "--keep-alive",
        "environment": "LLB_KEEP_ALIVE",
        "value": "90s",
        "is_default": False,
        "is_editable": True,
        "is_stored": False,
        "is_secret": False,
    }
    assert settings["llb_admin_password"]["value"] == settings["hf_token"]["value"] == "set"
    assert system["home"] == settings["home"]["value"] == str(llb.home)
    assert "s3cret" not in answer.text
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("scopes", [("models:read",), ("models:read", "models:write", "inference")])
async def test_nobody_else_sees_them(make_llb: BalancerFactory, scopes: tuple[str, ...]) -> None:
    llb = await make_llb().start()
    key = await llb.create_key(*scopes)
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=60) as client:
        answer = await client.get("/api/system", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert answer.json()["version"]
        assert not {"settings", "home", "models_dir"} & set(answer.json())
        assert str(llb.home) not in answer.text


async def change_settings(llb: RunningBalancer, **values: str | None) -> dict[str, tuple[object, ...]]:
    """Value of each setting, and whether it was changed this way."""
    answer = await llb.http.patch("/api/settings", json={"values": values})
    assert answer.status_code == 200, answer.text
    return {
        setting["name"]: (setting["value"], setting["is_stored"]) for setting in answer.json()["settings"]
    }


async def keeps_text(llb: RunningBalancer) -> bool:
    return bool((await llb.http.get("/api/requests")).json()["history_text"])


async def test_a_changed_setting_holds_at_once_and_until_it_is_reset(make_llb: BalancerFactory) -> None:
    llb = await make_llb(max_queue=7).start()
    changed = await change_settings(llb, max_queue="9", keep_alive="1h", history_text="on")
    assert (changed["max_queue"], changed["history_text"]) == (("9", True), ("on", True))
    assert await keeps_text(llb)
    await llb.stop()
    again = await make_llb(max_queue=7).start()
    assert await keeps_text(again)
    reset = await change_settings(again, max_queue=None, history_text=None)
    assert reset["max_queue"] == ("7", False)
    assert reset["keep_alive"] == changed["keep_alive"]
    assert not await keeps_text(again)


async def test_other_settings_and_wrong_values_are_refused(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    refused: list[dict[str, str | None]] = [
        {"port": "1"},
        {"nosuch": None},
        {"max_queue": "many"},
        {"max_queue": "5", "keep_alive": "x"},
    ]
    for values in refused:
        answer = await llb.http.patch("/api/settings", json={"values": values})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "values"
    assert (await change_settings(llb))["max_queue"] == ("512", False)


async def test_slots_context_waiting_time_and_token_change_while_llb_runs(make_llb: BalancerFactory) -> None:
    llb = await make_llb(parallel=2).start()
    await llb.wait_until_online()
    token = "hf_" + "t" * 20
    changed = await change_settings(llb, parallel="3", context="4096", queue_timeout="7s", hf_token=token)
    assert [changed[name] for name in ("parallel", "context", "queue_timeout", "hf_token")] == [
        ("3", True),
        ("4096", True),
        ("7s", True),
        ("set", True),
    ]
    hub = llb.app.base.hub
    await llb.wait_until(
        lambda: llb.app.cluster.view.nodes[llb.app.agent.node_id].hello.slots_per_engine == 3
    )
    assert hub.auth_headers(hub.endpoint) == {"Authorization": f"Bearer {token}"}
    # Write-only: neither the API, nor the audit log, nor the database shows it.
    for path in ("/api/system", "/api/audit"):
        assert token not in (await llb.http.get(path)).text
    await llb.stop()
    assert token.encode() not in (llb.home / "llb.db").read_bytes()
    again = await make_llb(parallel=2).start()
    assert again.app.base.hub.auth_headers(again.app.base.hub.endpoint)
    reset = await change_settings(again, parallel=None, hf_token=None)
    assert (reset["parallel"], reset["hf_token"]) == (("2", False), ("not set", False))
    assert again.app.base.hub.auth_headers(again.app.base.hub.endpoint) == {}


async def test_a_stored_token_goes_to_no_other_hub(make_llb: BalancerFactory) -> None:
    llb = await make_llb(hub_endpoint="http://127.0.0.1:9").start()
    await change_settings(llb, hf_token="hf_" + "t" * 20)
    await llb.stop()
    elsewhere = await make_llb(hub_endpoint="http://127.0.0.1:10").start()
    assert elsewhere.app.base.hub.auth_headers(elsewhere.app.base.hub.endpoint) == {}
    system = (await elsewhere.http.get("/api/system")).json()
    [code] = [each for each in system["problem_codes"] if each and each["code"] == "setting_unreadable"]
    assert code["values"] == {"name": "hf_token", "cause": {"code": "secret_other_address", "values": {}}}
