"""Settings: flag over environment over file over default, and one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

import pytest

from llb.config import SETTINGS, Config, effective_settings, load_config, make_config
from llb.errors import SetupError
from llb.hub import find_cached_file


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


def test_variables_of_the_commands_and_of_the_installer_are_no_unknown_settings(tmp_path: Path) -> None:
    names = ("LLB_ENGINE", "LLB_ENGINE_INDEX", "LLB_UNLOCKED", "LLB_URL")
    assert load(tmp_path, {}, dict.fromkeys(names, "1")) == load(tmp_path)


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
            "LLB_OLLAMA_ALLOW: '10.0.0.0/8, lan' contains 'lan', which is not an address or a network.",
        ),
        (
            {},
            "ollama_allow = ['10.0.0.0/33']",
            "contains '10.0.0.0/33', which is not an address or a network.",
        ),
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


@pytest.mark.parametrize("as_path", [str, Path, PurePath])
def test_a_path_may_be_text_or_a_path(tmp_path: Path, as_path: Callable[[Path], str | PathLike[str]]) -> None:
    config = make_config(
        home=as_path(tmp_path), models_dir=as_path(tmp_path / "m"), catalog=as_path(tmp_path / "c.json")
    )
    assert (config.home, config.models_dir) == (tmp_path, tmp_path / "m")
    assert config.catalog == tmp_path / "c.json"
    assert make_config(home=as_path(tmp_path)).models_dir == tmp_path / "models"
    assert all(isinstance(path, Path) for path in (config.home, config.models_dir, config.catalog))


def test_a_relative_path_and_a_users_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    assert make_config(home="data").home == tmp_path / "data"
    assert make_config(home="~/data").home == tmp_path / "ann" / "data"


def test_values_of_a_related_type_are_converted(tmp_path: Path) -> None:
    config = make_config(home=tmp_path, keep_alive_s=600, allowed_hosts=["a", "b"], catalog=None)
    assert (config.keep_alive_s, config.allowed_hosts, config.catalog) == (600.0, ("a", "b"), None)
    assert isinstance(config.keep_alive_s, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"home": 1}, "The setting home must be a path, not int."),
        ({"home": None}, "The setting home must be a path, not NoneType."),
        ({"home": b"/data"}, "The setting home must be a path, not bytes."),
        ({"catalog": ["a"]}, "The setting catalog must be a path or None, not list."),
        ({"port": "8080"}, "The setting port must be a whole number, not str."),
        ({"port": 80.5}, "The setting port must be a whole number, not float."),
        ({"port": True}, "The setting port must be a whole number, not bool."),
        ({"port": None}, "The setting port must be a whole number, not NoneType."),
        ({"keep_alive_s": "10m"}, "The setting keep_alive_s must be a number, not str."),
        ({"context": "8192"}, "The setting context must be a whole number or None, not str."),
        ({"history_text": "on"}, "The setting history_text must be True or False, not str."),
        ({"history_text": 1}, "The setting history_text must be True or False, not int."),
        ({"allowed_hosts": "a,b"}, "The setting allowed_hosts must be a list of texts, not str."),
        ({"allowed_hosts": [1]}, "The setting allowed_hosts must be a list of texts, not list."),
        ({"join": 1}, "The setting join must be text or None, not int."),
        ({"name": None}, "The setting name must be text, not NoneType."),
        ({"hub_token": 12345}, "The setting hub_token must be text or None, not int."),
    ],
)
def test_a_value_of_the_wrong_type_is_rejected(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SetupError) as caught:
        make_config(**{"home": tmp_path, **values})
    assert str(caught.value) == sentence


def test_what_is_in_effect_is_shown_as_it_is_given(tmp_path: Path) -> None:
    given = {
        "port": "9000",
        "memory_limit_bytes": "8GB",
        "disk_limit_bytes": "1.5GiB",
        "keep_alive_s": "-1",
        "queue_timeout_s": "90s",
        "drain_timeout_s": "5s",
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


# --- the user and the Hub ----------------------------------------------------------------------------


def test_a_user_without_a_home_directory_has_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_entry(_uid: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SetupError, match="This user has no home directory: set LLB_HOME"):
        load_config({}, {})
    for name in ("LLB_HOME", "LLB_MODELS_DIR"):
        with pytest.raises(SetupError, match="begins with ~, but this user has no home directory"):
            load_config({}, {"LLB_HOME": str(tmp_path), name: "~/models"})
    config = load_config({}, {"LLB_HOME": str(tmp_path)})
    assert config.home == tmp_path
    assert effective_settings(config)
    assert find_cached_file("0" * 64) is None


def test_the_environment_reaches_the_parsers(tmp_path: Path) -> None:
    config = load(tmp_path, env={"HF_TOKEN": "hf_x\n", "HF_HUB_OFFLINE": "TRUE", "LLB_BASE_PATH": "/llb/"})
    assert (config.hub_token, config.hub_offline, config.base_path) == ("hf_x", True, "/llb")


@pytest.mark.parametrize("text", ["hf_x y", '"hf_x"', "'hf_x'", "hf_é", "hf_x\nhf_y", "hf\tx"])
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError) as refused:
        load_config({}, {"LLB_HOME": str(tmp_path), "HF_TOKEN": text})
    assert str(refused.value).startswith("HF_TOKEN: its value contains a blank, a quotation mark")
    assert "hf" not in str(refused.value)
