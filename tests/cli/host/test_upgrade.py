"""`llb upgrade`: newer versions from an index of pip, and how this llb is upgraded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llb import __version__
from llb.cli.host.upgrade import newer_releases
from tests.cli.conftest import CommandHost


def create_index(folder: Path, *versions: str) -> str:
    """An index of pip with wheels of llb; only their names are read."""
    page = folder / "llb" / "index.html"
    page.parent.mkdir(parents=True)
    names = [f"llb-{version}-py3-none-any.whl" for version in versions]
    page.write_text("<!DOCTYPE html>" + "".join(f'<a href="{name}">{name}</a>' for name in names))
    return folder.as_uri()


def command_host(tmp_path: Path, index: str) -> CommandHost:
    return CommandHost(tmp_path / "home", PIP_INDEX_URL=index, PIP_CONFIG_FILE=os.devnull)


def test_it_says_what_is_newer_and_how_to_upgrade(tmp_path: Path) -> None:
    host = command_host(tmp_path, create_index(tmp_path / "index", "0.0.9", __version__, "9.9.0", "10.0.0"))
    output = host.run_command("upgrade", "--check").stdout
    assert f"llb 10.0.0 is available, this is {__version__}. Between them: 9.9.0." in output
    assert "git pull && ./install.sh run" in output
    assert host.run_json_command("upgrade", "--check", "--json")["newer"] == ["10.0.0", "9.9.0"]


def test_an_index_without_llb_is_a_sentence(tmp_path: Path) -> None:
    host = command_host(tmp_path, (tmp_path / "index").as_uri())
    done = host.run_command("upgrade", "--check", expected_status=1)
    assert done.stdout == ""
    assert "The package index has no llb" in done.stderr


def test_without_check_no_index_is_asked(tmp_path: Path) -> None:
    host = command_host(tmp_path, "http://index.invalid")
    report = host.run_json_command("upgrade")
    assert (report["version"], report["installation"]) == (__version__, "checkout")
    assert "newer" in report
    assert report["newer"] is None


@pytest.mark.parametrize(
    ("releases", "version", "expected"),
    [
        (["0.2.0", "0.10.0", "0.1.0"], "0.1.0", ("0.10.0", "0.2.0")),
        (["0.1.0"], "0.1.0", ()),
        (["0.2.0rc1", "0.2.0.dev3"], "0.1.0", ()),
        (["1.0"], "0.9.9", ("1.0",)),
    ],
)
def test_previews_and_older_releases_are_left_out(
    releases: list[str], version: str, expected: tuple[str, ...]
) -> None:
    assert newer_releases(releases, version) == expected
