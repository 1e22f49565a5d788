"""`llb backup` and `llb restore`."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import TINY_BYTES, CommandHost, create_host_with_models
from tests.harness import PASSWORD
from tests.hub import HubStandIn


@pytest.fixture
def filled(host: CommandHost) -> CommandHost:
    host.run_command("keys", "create", "first")
    return host


def key_names(host: CommandHost) -> list[str]:
    return [key["name"] for key in host.run_json_command("keys")["keys"]]


def test_backup_and_restore(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    assert str(saved) in filled.run_command("backup", str(saved)).stdout
    assert saved.stat().st_mode & 0o777 == 0o600
    filled.run_command("keys", "create", "second")
    output = filled.run_command("restore", str(saved)).stdout
    assert key_names(filled) == ["first"]
    kept = re.search(r"kept as (\S+)\.\n", output)
    assert kept is not None
    with sqlite3.connect(kept[1]) as previous:
        names = [row[0] for row in previous.execute("SELECT name FROM api_keys ORDER BY created_at")]
    previous.close()
    assert names == ["first", "second"]
    assert Path(kept[1]).stat().st_mode & 0o777 == 0o600
    assert not list(filled.home.glob("*.restoring"))
    # The kept database is itself a backup.
    filled.run_command("restore", kept[1])
    assert key_names(filled) == ["first", "second"]


def test_a_backup_of_a_running_server_and_a_restore_only_when_it_has_stopped(
    filled: CommandHost, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    filled.env["LLB_ADMIN_PASSWORD"] = PASSWORD
    filled.start_server()
    filled.run_command("backup", str(saved))
    assert "stop it first" in filled.run_failing_command("restore", str(saved))
    filled.stop_server()
    filled.run_command("restore", str(saved))
    filled.start_server()
    assert key_names(filled) == ["first"]


def test_a_new_home_from_a_backup(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    other = CommandHost(tmp_path / "deep" / "other")
    assert "previous" not in other.run_command("restore", str(saved)).stdout
    assert key_names(other) == ["first"]
    assert other.home.stat().st_mode & 0o777 == 0o700


def test_both_are_in_the_audit_log(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    filled.run_command("restore", str(saved))
    with sqlite3.connect(filled.home / "llb.db") as db:
        output = list(db.execute("SELECT actor, action, target FROM audit ORDER BY id DESC LIMIT 2"))
    db.close()
    assert output == [("local", "database.restore", "saved.db"), ("local", "database.backup", "saved.db")]


def test_a_file_that_exists_is_replaced_only_with_force(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    saved.write_text("precious")
    assert "--force" in filled.run_failing_command("backup", str(saved))
    assert saved.read_text() == "precious"
    filled.run_command("backup", str(saved), "--force")
    assert saved.read_bytes().startswith(b"SQLite format 3")


def test_invalid_targets(filled: CommandHost, tmp_path: Path) -> None:
    assert "is a directory" in filled.run_failing_command("backup", str(tmp_path))
    assert "no directory" in filled.run_failing_command("backup", str(tmp_path / "no" / "where.db"))
    assert "the database itself" in filled.run_failing_command(
        "backup", str(filled.home / "llb.db"), "--force"
    )
    assert "the database itself" in filled.run_failing_command("restore", str(filled.home / "llb.db"))
    assert key_names(filled) == ["first"]


def damaged(path: Path) -> bytes:
    """Content of a database with a damaged page."""
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    return bytes(content)


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "foreign", "newer", "damaged", "cut"])
def test_an_invalid_backup_changes_nothing(filled: CommandHost, tmp_path: Path, kind: str) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    whole = saved.read_bytes()
    if kind == "missing":
        saved.unlink()
    elif kind == "text":
        saved.write_text("not a database, but long enough to be read as one" * 100)
    elif kind == "empty":
        saved.write_bytes(b"")
    elif kind == "damaged":
        saved.write_bytes(damaged(saved))
    elif kind == "cut":
        saved.write_bytes(whole[: len(whole) // 2])
    else:
        if kind == "foreign":
            saved.unlink()
        db = sqlite3.connect(saved)
        db.execute("CREATE TABLE songs (name)")
        db.execute("PRAGMA user_version = 99" if kind == "newer" else "PRAGMA user_version = 1")
        db.commit()
        db.close()
    (filled.home / "llb.lock").touch()
    before = sorted(filled.home.iterdir())
    content = (filled.home / "llb.db").read_bytes()
    message = filled.run_failing_command("restore", str(saved))
    assert str(saved) in message
    assert sorted(filled.home.iterdir()) == before
    assert (filled.home / "llb.db").read_bytes() == content


def test_a_restore_replaces_a_damaged_database_and_keeps_it(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    database = filled.home / "llb.db"
    broken = damaged(database)
    database.write_bytes(broken)
    assert "llb restore" in filled.run_failing_command("keys")
    filled.run_command("restore", str(saved))
    assert key_names(filled) == ["first"]
    [kept] = filled.home.glob("llb-replaced-*.db")
    # Except for the first page, where SQLite counts changes.
    assert kept.read_bytes()[4096:] == broken[4096:]


def test_commits_in_the_write_ahead_log_are_kept(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    # A server that is killed leaves its last commits in the log.
    filled.env["LLB_ADMIN_PASSWORD"] = PASSWORD
    filled.start_server()
    filled.run_command("keys", "create", "late")
    assert (filled.home / "llb.db-wal").stat().st_size > 0
    assert filled._server is not None
    filled._server.kill()
    filled._server.communicate()
    filled._server = None
    filled.run_command("restore", str(saved))
    assert key_names(filled) == ["first"]
    [kept] = filled.home.glob("llb-replaced-*.db")
    db = sqlite3.connect(kept)
    assert [row[0] for row in db.execute("SELECT name FROM api_keys ORDER BY created_at")] == [
        "first",
        "late",
    ]
    db.close()


def test_a_restore_asks_at_a_terminal(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    filled.run_command("keys", "create", "second")
    with filled.open_terminal("restore", str(saved)) as terminal:
        terminal.expect("[y/N] ")
        terminal.write("\n")
        assert terminal.wait() == 1
    assert key_names(filled) == ["first", "second"]


def test_model_files_are_copied_with_models(
    with_models: CommandHost, tmp_path: Path, models_hub: HubStandIn
) -> None:
    with_models.start_server()
    with_models.run_command("pull", "tiny")
    saved, files = tmp_path / "saved.db", tmp_path / "files"
    assert (
        "1 model files copied" in with_models.run_command("backup", str(saved), "--models", str(files)).stdout
    )
    assert (files / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
    again = with_models.run_command("backup", str(saved), "--models", str(files), "--force").stdout
    assert "0 model files copied" in again
    with_models.stop_server()

    (tmp_path / "other").mkdir()
    other = create_host_with_models(tmp_path / "other", models_hub)
    output = other.run_command("restore", str(saved), "--models", str(files)).stdout
    assert "with 1 model files" in output
    requests_before = len(models_hub.byte_requests("tiny.gguf"))
    other.start_server()
    try:
        [tiny] = [
            item for item in other.run_json_command("models")["models"] if item["model"]["id"] == "tiny"
        ]
        assert tiny["status"] == "Ready"
        # The file was not downloaded again.
        assert len(models_hub.byte_requests("tiny.gguf")) == requests_before
    finally:
        other.stop_server()


def test_a_changed_file_is_not_copied(with_models: CommandHost, tmp_path: Path) -> None:
    with_models.start_server()
    with_models.run_command("pull", "tiny")
    with_models.stop_server()
    (with_models.home / "models" / "tiny" / "tiny.gguf").write_bytes(b"GGUF, but another")
    output = with_models.run_command(
        "backup", str(tmp_path / "saved.db"), "--models", str(tmp_path / "files")
    ).stdout
    assert "0 model files copied" in output
    assert not (tmp_path / "files" / "tiny" / "tiny.gguf").exists()


def test_invalid_model_directories(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    assert "There is no directory" in filled.run_failing_command(
        "restore", str(saved), "--models", str(tmp_path / "none")
    )
