"""Settings: docs/settings.md lists all of them, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llb.config import SETTINGS, Config, Setting, make_config
from llb.errors import SetupError

SETTINGS_PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.field)
def test_every_setting_is_documented(setting: Setting) -> None:
    [row] = [
        line for line in SETTINGS_PAGE.splitlines() if line.startswith("|") and f"| `{setting.env}` |" in line
    ]
    _, flag, _, key, *_ = (cell.strip() for cell in row.split("|"))
    written = setting.flag if setting.is_switch else f"{setting.flag} {setting.metavar}"
    assert flag == (f"`{written}`" if setting.flag else "–")
    assert key == (f"`{setting.key}`" if setting.field != "home" else "–")


def test_no_other_setting_is_documented() -> None:
    rows = re.findall(r"^\| \S.*?\| `([A-Z_]+)` \|", SETTINGS_PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(setting.env for setting in SETTINGS)


def test_a_misspelt_secret_is_not_repeated(tmp_path: Path) -> None:
    secret = next(setting for setting in SETTINGS if setting.field == "hub_token")
    assert "hf_" not in repr(secret)
    with pytest.raises(SetupError) as caught:
        make_config(home=tmp_path, tokn="hf_secret")
    assert "hf_secret" not in str(caught.value)


def test_every_setting_is_a_field_and_has_a_name_of_its_own() -> None:
    fields = Config.__struct_fields__
    assert all(setting.field in fields for setting in SETTINGS)
    for values in zip(*((setting.field, setting.env, setting.key) for setting in SETTINGS), strict=True):
        assert len(set(values)) == len(values)
