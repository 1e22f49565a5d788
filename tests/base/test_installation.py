"""Commands that are shown: as this llb was installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.base import installation
from llb.base.installation import InstallKind
from tests.processes import clean_environment


@pytest.fixture
def program_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "llb.pyz"
    path.touch(0o644)
    installation.use_program_file(path)
    yield path
    installation.use_program_file(None)


def test_a_file_is_named_as_a_person_starts_it(program_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.kind() is InstallKind.FILE
    assert installation.command_path() == "python3 llb.pyz"
    program_file.chmod(0o755)
    assert installation.serve_commands() == ("./llb.pyz", "./install.sh run")
    assert installation.program_command() == [sys.executable, str(program_file)]
    monkeypatch.setenv("PATH", str(program_file.parent))
    assert installation.command_path() == "llb.pyz"


@pytest.mark.parametrize(
    ("is_checkout", "command", "serve"),
    [
        (True, ".venv/bin/llb", ("./install.sh run", "llb")),
        (False, "llb", ("llb", "./install.sh run")),
    ],
)
def test_a_checkout_and_a_package(
    is_checkout: bool,
    command: str,
    serve: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    if is_checkout:
        (tmp_path / "install.sh").touch()
    assert installation.command_path() == command
    assert installation.serve_commands() == serve


@pytest.mark.parametrize("module", ["pip", "llb"])
def test_no_module_is_taken_from_the_working_directory(tmp_path: Path, module: str) -> None:
    """It may be a directory to which another user can write."""
    (tmp_path / f"{module}.py").write_text("print('taken from here')")
    command = installation.pip_command() if module == "pip" else installation.program_command()
    version = "--version" if module == "pip" else "version"
    environment = clean_environment()
    done = subprocess.run(
        [*command, version], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(module)
