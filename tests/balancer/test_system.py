"""`/api/system`: what every reader of models may see of the host, and what only an administrator may."""

from __future__ import annotations

import httpx
import pytest

from llb.config import SETTINGS
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD


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
    }
    assert settings["llb_admin_password"]["value"] == settings["hf_token"]["value"] == "set"
    assert system["home"] == settings["home"]["value"] == str(llb.home)
    assert "s3cret" not in answer.text
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("scopes", [("models:read",), ("models:read", "models:write", "inference")])
async def test_nobody_else_sees_them(make_llb: BalancerFactory, scopes: tuple[str, ...]) -> None:
    llb = await make_llb().start()
    key = await llb.create_key(*scopes)
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False) as client:
        answer = await client.get("/api/system", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert answer.json()["version"]
        assert not {"settings", "home", "models_dir"} & set(answer.json())
        assert str(llb.home) not in answer.text
