"""`llb backup --to` and `llb backup verify`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import CommandHost


@pytest.fixture
def filled(host: CommandHost) -> CommandHost:
    host.run_command("keys", "create", "first")
    return host


def test_a_directory_keeps_the_newest_and_the_newest_is_verified(filled: CommandHost, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    for _ in range(3):
        filled.run_command("backup", "--to", str(directory), "--keep", "2")
    backups = sorted(directory.iterdir())
    assert len(backups) == 2
    before = {path: path.read_bytes() for path in [*backups, filled.home / "llb.db"]}
    shown = filled.run_command("backup", "verify", str(directory)).stdout
    assert str(backups[-1]) in shown
    assert "can be restored: 0 users, 1 key, 0 nodes, 0 models, 0 requests." in shown
    assert {path: path.read_bytes() for path in before} == before


def test_a_backup_that_cannot_be_restored_is_said_to_be_one(filled: CommandHost, tmp_path: Path) -> None:
    assert "There is no backup in" in filled.run_failing_command("backup", "verify", str(tmp_path))
    # Where the automatic ones would be.
    assert str(filled.home / "backups") in filled.run_failing_command("backup", "verify")
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    content = bytearray(saved.read_bytes())
    content[5000] ^= 0xFF
    saved.write_bytes(content)
    assert "cannot be restored" in filled.run_failing_command("backup", "verify", str(saved))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give a file to write, or a directory with --to."),
        (("a", "--to", "b"), "Give a file to write, or a directory with --to."),
        (("a", "--keep", "2"), "give it with --to"),
        (("a", "b"), "llb backup verify"),
        (("verify", "a", "--force"), "takes no flags"),
    ],
)
def test_arguments_that_contradict_each_other(
    host: CommandHost, arguments: tuple[str, ...], sentence: str
) -> None:
    done = host.run_command("backup", *arguments, expected_status=2)
    assert sentence in done.stderr
    assert not host.home.exists()
