"""Settings: flag over environment over file over default, and a sentence for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.config import SETTINGS, Config, load_config, make_config, parse_duration, parse_size
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
    ("env", "toml", "sentence"),
    [
        ({"LLB_PROT": "1"}, "", "Unknown setting LLB_PROT in the environment."),
        ({"LLB_PORT": "http"}, "", "LLB_PORT: 'http' is not a whole number."),
        ({"LLB_PORT": "70000"}, "", "LLB_PORT: '70000' is not between 0 and 65535."),
        ({"LLB_MEMORY_LIMIT": "lots"}, "", "LLB_MEMORY_LIMIT: 'lots' is not a size such as 8GB."),
        ({"LLB_KEEP_ALIVE": "soon"}, "", "LLB_KEEP_ALIVE: 'soon' is not a duration such as 10m."),
        ({"HF_ENDPOINT": "hub"}, "", "HF_ENDPOINT: 'hub' is not a URL such as http://host:8080."),
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


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("512", 512), ("10kb", 10_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90", 90), ("-1", -1), ("0", 0), ("250ms", 0.25)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_every_setting_is_a_field_and_has_a_name_of_its_own() -> None:
    fields = Config.__dataclass_fields__
    assert all(setting.field in fields for setting in SETTINGS)
    for values in zip(*((setting.field, setting.env, setting.key) for setting in SETTINGS), strict=True):
        assert len(set(values)) == len(values)
