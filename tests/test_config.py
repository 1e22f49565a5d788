"""Settings: flag over environment over file over default, and a sentence for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.config import SETTINGS, Config, effective_settings, load_config, make_config
from llb.errors import SetupError


def load(
    home: Path, flags: dict[str, str | list[str]] | None = None, env: dict[str, str] | None = None
) -> Config:
    return load_config(flags or {}, {"LLB_HOME": str(home), **(env or {})})


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.listen_host, config.port, config.parallel) == ("127.0.0.1", 8080, 4)
    assert config.models_dir == tmp_path / "models"
    assert config.keep_alive_s == 600
    assert config.name


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    (tmp_path / "llb.toml").write_text('port = 1\nparallel = 2\nmax_queue = 3\nallowed_host = ["a", "b"]\n')
    config = load(tmp_path, {"port": "3"}, {"LLB_PORT": "2", "LLB_PARALLEL": "7"})
    assert (config.port, config.parallel, config.max_queue) == (3, 7, 3)
    assert config.allowed_hosts == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "env", "toml", "on"),
    [
        ({}, {}, "", False),
        ({}, {}, "history_text = true", True),
        ({}, {"LLB_HISTORY_TEXT": "On"}, "history_text = false", True),
        ({}, {"LLB_HISTORY_TEXT": "0"}, "history_text = true", False),
        ({"history_text": "on"}, {"LLB_HISTORY_TEXT": "off"}, "", True),
    ],
)
def test_a_switch(
    tmp_path: Path, flags: dict[str, str | list[str]], env: dict[str, str], toml: str, on: bool
) -> None:
    (tmp_path / "llb.toml").write_text(toml)
    assert load(tmp_path, flags, env).history_text is on


@pytest.mark.parametrize(
    ("env", "toml", "sentence"),
    [
        ({"LLB_PROT": "1"}, "", "Unknown setting LLB_PROT in the environment."),
        ({"LLB_PORT": "http"}, "", "LLB_PORT: 'http' is not a whole number."),
        ({"LLB_PORT": "70000"}, "", "LLB_PORT: '70000' is not between 0 and 65535."),
        ({"LLB_MEMORY_LIMIT": "lots"}, "", "LLB_MEMORY_LIMIT: 'lots' is not a size such as 8GB."),
        ({"LLB_KEEP_ALIVE": "soon"}, "", "LLB_KEEP_ALIVE: 'soon' is not a duration such as 10m."),
        ({"HF_ENDPOINT": "hub"}, "", "HF_ENDPOINT: 'hub' is not a URL such as http://host:8080."),
        ({"LLB_HISTORY_DAYS": "366"}, "", "LLB_HISTORY_DAYS: '366' is not between 0 and 365."),
        ({"LLB_HISTORY_TEXT": "maybe"}, "", "LLB_HISTORY_TEXT: 'maybe' is not on or off."),
        ({"LLB_OLLAMA_PORT": "on"}, "", "LLB_OLLAMA_PORT: 'on' is not a whole number."),
        (
            {"LLB_OLLAMA_ALLOW": "10.0.0.0/8, lan"},
            "",
            "LLB_OLLAMA_ALLOW: '10.0.0.0/8, lan' names 'lan', which is not an address or a network.",
        ),
        ({}, "ollama_allow = ['10.0.0.0/33']", "names '10.0.0.0/33', which is not an address or a network."),
        ({}, "prot = 1", "unknown setting 'prot'."),
        ({}, "port = true", "'port' has the wrong type."),
        ({}, "port = [", "cannot be read"),
        ({}, "home = 'x'", "unknown setting 'home'."),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, env: dict[str, str], toml: str, sentence: str) -> None:
    (tmp_path / "llb.toml").write_text(toml)
    with pytest.raises(SetupError, match=r".") as caught:
        load(tmp_path, env=env)
    assert sentence in str(caught.value)


def test_a_misspelt_secret_is_not_repeated(tmp_path: Path) -> None:
    secret = next(setting for setting in SETTINGS if setting.field == "hub_token")
    assert "hf_" not in repr(secret)
    with pytest.raises(SetupError) as caught:
        make_config(home=tmp_path, tokn="hf_secret")
    assert "hf_secret" not in str(caught.value)


def test_every_setting_is_a_field_and_has_a_name_of_its_own() -> None:
    fields = Config.__dataclass_fields__
    assert all(setting.field in fields for setting in SETTINGS)
    for values in zip(*((setting.field, setting.env, setting.key) for setting in SETTINGS), strict=True):
        assert len(set(values)) == len(values)


def test_what_is_in_effect_is_shown_as_it_is_given(tmp_path: Path) -> None:
    given = {
        "port": "9000",
        "memory_limit_bytes": "8GB",
        "disk_limit_bytes": "1.5GiB",
        "keep_alive_s": "-1",
        "queue_timeout_s": "90s",
        "download_rate": "20MB/s",
        "ollama_port": "11434",
        "ollama_allow": "10.0.0.0/8, fd00::/8",
        "allowed_hosts": "attic, llb.example",
        "hub_endpoint": "http://mirror:8080/hf",
        "name": "attic",
        "history_days": "30",
        "history_text": "on",
    }
    config = load(tmp_path, dict(given))
    shown = {view.name: view for view in effective_settings(config)}
    assert list(shown) == [setting.key for setting in SETTINGS]
    for setting in SETTINGS:
        view = shown[setting.key]
        assert (view.flag, view.environment) == (setting.flag, setting.env)
        if setting.field in given:
            assert (view.value, view.is_default) == (given[setting.field], False)
        if view.value is not None and "set" not in view.value:
            assert setting.parse(view.value) == getattr(config, setting.field) or setting.field == "host"


def test_where_the_port_without_keys_listens(tmp_path: Path) -> None:
    def host(*networks: str) -> str:
        return load(tmp_path, {"ollama_allow": ",".join(networks)}).ollama_host

    assert make_config(home=tmp_path).ollama_host == "127.0.0.1"
    assert host("10.1.2.3/8") == "0.0.0.0"
    assert host("10.0.0.0/8", "fd00::/8") == "::"


def test_defaults_are_shown_as_such(tmp_path: Path) -> None:
    shown = {view.name: view for view in effective_settings(load(tmp_path))}
    assert {name for name, view in shown.items() if not view.is_default} == {"home"}
    values = {name: view.value for name, view in shown.items()}
    assert values["host"] == "127.0.0.1"
    assert values["models_dir"] == str(tmp_path / "models")
    assert (values["keep_alive"], values["queue_timeout"], values["parallel"]) == ("10m", "1m", "4")
    assert values["download_rate"] == "unlimited"
    assert [values[name] for name in ("memory_limit", "context", "catalog", "allowed_host")] == [None] * 4


def test_no_secret_is_shown(tmp_path: Path) -> None:
    secrets = {
        "LLB_ADMIN_PASSWORD": "s3cret1",
        "HF_TOKEN": "s3cret2",
        "HF_ENDPOINT": "http://me:s3cret3@hub:1/x",
    }
    shown = {view.name: view.value for view in effective_settings(load(tmp_path, env=secrets))}
    assert "s3cret" not in repr(shown)
    assert (shown["llb_admin_password"], shown["hf_token"]) == ("set", "set")
    assert shown["hf_endpoint"] == "http://hub:1/x"
    unset = {view.name: view for view in effective_settings(load(tmp_path))}
    assert (unset["hf_token"].value, unset["hf_token"].is_default) == ("not set", True)
