"""`llb backup` and `llb restore`."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
from pathlib import Path

import pytest

from llb.store.schema import checksum_trailer
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
    output = filled.run_command("restore", "--yes", str(saved)).stdout
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
    filled.run_command("restore", "--yes", kept[1])
    assert key_names(filled) == ["first", "second"]


def test_a_backup_of_a_running_server_and_a_restore_only_when_it_has_stopped(
    filled: CommandHost, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    filled.env["LLB_ADMIN_PASSWORD"] = PASSWORD
    filled.start_server()
    filled.run_command("backup", str(saved))
    assert "stop it first" in filled.run_failing_command("restore", "--yes", str(saved))
    filled.stop_server()
    filled.run_command("restore", "--yes", str(saved))
    filled.start_server()
    assert key_names(filled) == ["first"]


def test_a_new_home_from_a_backup(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    other = CommandHost(tmp_path / "deep" / "other")
    assert "previous" not in other.run_command("restore", "--yes", str(saved)).stdout
    assert key_names(other) == ["first"]
    assert other.home.stat().st_mode & 0o777 == 0o700


def test_both_are_in_the_audit_log(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    filled.run_command("restore", "--yes", str(saved))
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
    assert "the database itself" in filled.run_failing_command(
        "restore", "--yes", str(filled.home / "llb.db")
    )
    assert key_names(filled) == ["first"]


def damaged(path: Path) -> bytes:
    """Content of a database with a damaged page."""
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    return bytes(content)


@pytest.mark.parametrize("kind", ["missing", "cut"])
def test_an_invalid_backup_changes_nothing(filled: CommandHost, tmp_path: Path, kind: str) -> None:
    """`tests/store/test_backup.py` has the other kinds."""
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    if kind == "missing":
        saved.unlink()
    else:
        saved.write_bytes(saved.read_bytes()[:50_000])
    (filled.home / "llb.lock").touch()
    before = sorted(filled.home.iterdir())
    content = (filled.home / "llb.db").read_bytes()
    message = filled.run_failing_command("restore", "--yes", str(saved))
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
    filled.run_command("restore", "--yes", str(saved))
    assert key_names(filled) == ["first"]
    [kept] = filled.home.glob("llb-replaced-*.db")
    # Except for the first page, where SQLite counts changes, and the checksum.
    assert kept.read_bytes()[4096 : len(broken)] == broken[4096:]


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
    filled.run_command("restore", "--yes", str(saved))
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
    output = other.run_command("restore", "--yes", str(saved), "--models", str(files)).stdout
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
        "restore", "--yes", str(saved), "--models", str(tmp_path / "none")
    )


# --- what a restore brings back -----------------------------------------------------------------------


def test_what_was_revoked_since_the_backup_stays_revoked(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("password", stdin=f"{PASSWORD}\n")
    filled.run_command("users", "add", "ann", "--role", "admin", stdin=f"{PASSWORD}\n")
    filled.run_command("users", "add", "bob", stdin=f"{PASSWORD}\n")
    filled.run_command("keys", "create", "kept")
    filled.run_command("backup", str(saved))
    [first] = [key for key in filled.run_json_command("keys")["keys"] if key["name"] == "first"]
    filled.run_command("keys", "revoke", first["id"])
    filled.run_command("users", "remove", "bob", "--yes")
    filled.run_command("users", "role", "ann", "user")
    filled.run_command("password", stdin=f"{PASSWORD} and more\n")
    with sqlite3.connect(filled.home / "llb.db") as db:
        password_hash = db.execute("SELECT password_hash FROM users WHERE username = 'admin'").fetchone()
    db.close()

    output = filled.run_command("restore", "--yes", str(saved)).stdout
    for clause in ("user bob", "key first", "old password of admin", "admin role of ann"):
        assert clause in output
    assert "--revive" in output
    assert "Valid again" not in output
    assert key_names(filled) == ["kept"]
    people = {user["username"]: user["role"] for user in filled.run_json_command("users")["users"]}
    assert people == {"admin": "admin", "ann": "user"}
    with sqlite3.connect(filled.home / "llb.db") as db:
        assert db.execute("SELECT password_hash FROM users WHERE username = 'admin'").fetchone() == (
            password_hash
        )
    db.close()

    # Also when the database does not descend from the backup any more: the names of the removed show it.
    assert "key first" in filled.run_command("restore", "--yes", str(saved)).stdout
    assert key_names(filled) == ["kept"]

    output = filled.run_command("restore", "--yes", str(saved), "--revive").stdout
    assert "Valid again: " in output
    assert key_names(filled) == ["first", "kept"]
    assert len(filled.run_json_command("users")["users"]) == 3


def test_what_was_only_lost_comes_back_and_is_told(filled: CommandHost, tmp_path: Path) -> None:
    early, late = tmp_path / "early.db", tmp_path / "late.db"
    filled.run_command("backup", str(early))
    filled.run_command("keys", "create", "second")
    filled.run_command("backup", str(late))
    filled.run_command("restore", "--yes", str(early))
    assert "Valid again: key second." in filled.run_command("restore", "--yes", str(late)).stdout
    assert key_names(filled) == ["first", "second"]


def test_sessions_and_join_tokens_of_a_backup_end(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("password", stdin=f"{PASSWORD}\n")
    with sqlite3.connect(filled.home / "llb.db") as db:
        [user_id] = db.execute("SELECT id FROM users").fetchone()
        db.execute("INSERT INTO sessions VALUES ('s', ?, 0, 1e12, 1e12, NULL)", (user_id,))
        db.execute(
            "INSERT INTO join_tokens (hash, created_by, created_at, expires_at) VALUES ('t', 'a', 0, 1e12)"
        )
    filled.run_command("backup", str(saved))
    # They were used or ended since.
    with db:
        db.execute("DELETE FROM sessions")
        db.execute("UPDATE join_tokens SET used_at = 1")
    db.close()
    filled.run_command("restore", "--yes", str(saved))
    with sqlite3.connect(filled.home / "llb.db") as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM join_tokens WHERE used_at IS NULL").fetchone() == (0,)
    db.close()


def test_a_restore_without_an_administrator_is_refused(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("password", stdin=f"{PASSWORD}\n")
    filled.run_command("backup", str(saved))
    filled.run_command("users", "add", "ann", "--role", "admin", stdin=f"{PASSWORD}\n")
    filled.run_command("users", "remove", "admin", "--yes")
    (filled.home / "llb.lock").touch()
    before = sorted(path.name for path in filled.home.iterdir())
    assert "no administrator would be left" in filled.run_failing_command("restore", "--yes", str(saved))
    assert sorted(path.name for path in filled.home.iterdir()) == before
    assert [user["username"] for user in filled.run_json_command("users")["users"]] == ["ann"]
    filled.run_command("restore", "--yes", str(saved), "--revive")


def test_files_of_models_that_the_database_does_not_know_are_told(
    filled: CommandHost, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    (filled.home / "models" / "chat").mkdir(parents=True)
    (filled.home / "models" / "chat" / "chat.gguf").write_bytes(bytes(3_000_000))
    assert (
        "The files of chat (3 MB) are on the disk"
        in filled.run_command("restore", "--yes", str(saved)).stdout
    )


def test_a_backup_that_was_changed_since_it_was_written_changes_nothing(
    filled: CommandHost, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    # In free space of a page, which no check of SQLite reads.
    content = bytearray(saved.read_bytes())
    page = content.rindex(bytes(2000), 0, len(content) - 200)
    content[page + 50 : page + 250] = os.urandom(200)
    saved.write_bytes(content)
    before = {path.name: path.read_bytes() for path in filled.home.glob("llb*") if path.suffix != ".lock"}
    message = filled.run_failing_command("restore", "--yes", str(saved))
    assert "its checksum differs" in message
    after = {path.name: path.read_bytes() for path in filled.home.glob("llb*") if path.suffix != ".lock"}
    assert after == before


def test_a_backup_of_an_older_llb_has_no_checksum(filled: CommandHost, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    filled.run_command("backup", str(saved))
    assert "no checksum" not in filled.run_command("restore", "--yes", str(saved)).stdout
    saved.write_bytes(saved.read_bytes()[: -len(checksum_trailer("0" * 64))])
    assert "no checksum" in filled.run_command("restore", "--yes", str(saved)).stdout


# --- targets that are no files -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "socket", "device", "stream"])
def test_a_target_that_is_no_file_stays_what_it_is(filled: CommandHost, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        target.symlink_to(tmp_path / "fifo")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(target))
    elif kind == "device":
        target.symlink_to("/dev/null")
    else:
        target.symlink_to("/dev/stdout")
    before = target.lstat()
    filled.run_failing_command("backup", str(target), "--force")
    after = target.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_link_to_a_file_stays_a_link(filled: CommandHost, tmp_path: Path) -> None:
    saved, link = tmp_path / "saved.db", tmp_path / "link.db"
    saved.write_text("old")
    link.symlink_to(saved)
    assert "already exists" in filled.run_failing_command("backup", str(link))
    filled.run_command("backup", str(link), "--force")
    assert link.is_symlink()
    assert saved.read_bytes().startswith(b"SQLite format 3")
