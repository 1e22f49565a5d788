"""Review of a restored database: what was revoked since stays so, what was only lost comes back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llb.errors import SetupError
from llb.store.restore_review import RestoreReview, review_restored
from llb.store.schema import prepare_database, save_copy

# An admin, a user with a key, a node, a model, a session and a join token.
THEN = """
    INSERT INTO settings (key, value) VALUES ('cluster_id', 'here');
    INSERT INTO users (id, username, password_hash, role, must_change_password, created_at)
        VALUES ('a', 'ann', 'old', 'admin', 0, 1), ('b', 'bob', 'h', 'user', 0, 1), ('c', 'cid', 'h', 'admin', 0, 1);
    INSERT INTO api_keys (id, name, hash, prefix, scopes, owner_id, created_at)
        VALUES ('k', 'laptop', 'k', 'sk-', '[]', 'b', 1), ('h', 'host', 'h', 'sk-', '[]', NULL, 1);
    INSERT INTO nodes (id, name, credential_hash, hop_credential, created_at) VALUES ('n', 'attic', 'c', 'h', 1);
    INSERT INTO sessions (id, user_id, created_at, expires_at, last_seen) VALUES ('s', 'a', 1, 9e9, 1), ('t', 'a', 1, 9e9, 1);
    INSERT INTO join_tokens (hash, created_by, created_at, expires_at) VALUES ('t', 'ann', 1, 9e9), ('u', 'ann', 1, 9e9);
    INSERT INTO audit (time, actor, action, result) VALUES (1, 'ann', 'database.backup', 'ok');
"""  # noqa: E501


class Databases:
    """The database as it was at the backup, and as it is now."""

    def __init__(self, directory: Path) -> None:
        self.restored, self.previous = directory / "restored.db", directory / "previous.db"
        prepare_database(self.previous)
        self.change(self.previous, THEN)
        with closing(sqlite3.connect(self.previous)) as connection:
            save_copy(connection, self.restored, with_checksum=False)

    @staticmethod
    def change(path: Path, script: str) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript("PRAGMA foreign_keys = ON; " + script)

    def review(self, script: str = "", *, revive: bool = False) -> RestoreReview:
        """Review of a restore after these changes of the previous database."""
        self.change(self.previous, script)
        return review_restored(self.restored, self.previous, revive=revive)

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.restored)) as connection:
            return [row[0] if len(row) == 1 else row for row in connection.execute(query)]


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    return Databases(tmp_path)


def test_without_changes_nothing_is_said(databases: Databases) -> None:
    assert databases.review() == RestoreReview(has_previous=True)
    assert databases.rows("SELECT id FROM sessions ORDER BY id") == ["s", "t"]


@pytest.mark.parametrize(
    ("script", "clauses", "query", "revoked"),
    [
        ("DELETE FROM api_keys WHERE id = 'h'", ["key host"], "SELECT id FROM api_keys", ["k"]),
        # The key went with its user.
        ("DELETE FROM users WHERE id = 'b'", ["user bob", "key laptop"], "SELECT id FROM api_keys", ["h"]),
        (
            "UPDATE nodes SET removed_at = 7, credential_hash = NULL",
            ["node attic"],
            "SELECT removed_at, credential_hash, hop_credential FROM nodes",
            [(7.0, None, None)],
        ),
        (
            "UPDATE users SET password_hash = 'new' WHERE id = 'a'",
            ["old password of ann"],
            "SELECT password_hash FROM users WHERE id = 'a'",
            ["new"],
        ),
        (
            "UPDATE users SET role = 'user' WHERE id = 'c'",
            ["admin role of cid"],
            "SELECT role FROM users WHERE id = 'c'",
            ["user"],
        ),
        (
            "UPDATE api_keys SET limits = '{\"concurrent\": 2}' WHERE id = 'k'",
            ["old limits of key laptop"],
            "SELECT limits FROM api_keys WHERE id = 'k'",
            ['{"concurrent": 2}'],
        ),
    ],
)
def test_what_was_revoked_stays_revoked_unless_it_is_revived(
    databases: Databases, script: str, clauses: list[str], query: str, revoked: list[Any]
) -> None:
    before = databases.rows(query)
    assert before != revoked
    revived = databases.review(script, revive=True)
    assert (revived.still_revoked, revived.revived) == ([], clauses)
    assert databases.rows(query) == before
    review = databases.review()
    assert (review.still_revoked, review.revived) == (clauses, [])
    assert databases.rows(query) == revoked


def test_what_was_given_since_is_no_revocation(databases: Databases) -> None:
    databases.change(databases.restored, "UPDATE users SET role = 'user' WHERE id = 'c'")
    assert databases.review("INSERT INTO users SELECT 'd', 'dan', 'h', 'user', 0, 2").still_revoked == []
    assert databases.rows("SELECT role FROM users WHERE id = 'c'") == ["user"]


def test_what_was_only_lost_is_valid_again_and_told(databases: Databases) -> None:
    """The database does not descend from the backup, and nothing shows that the key was removed."""
    review = databases.review(
        "DELETE FROM audit; DELETE FROM api_keys WHERE id = 'h'; DELETE FROM nodes; DELETE FROM former_names"
    )
    assert (review.still_revoked, review.revived) == ([], ["key host", "node attic"])
    assert databases.rows("SELECT count(*) FROM api_keys") == [2]


def test_the_former_name_of_a_key_shows_that_it_was_removed(databases: Databases) -> None:
    review = databases.review("DELETE FROM audit; DELETE FROM api_keys WHERE id = 'h'")
    assert review.still_revoked == ["key host"]
    assert databases.rows("SELECT id FROM api_keys") == ["k"]


def test_sessions_and_tokens_that_ended_or_were_used_do_not_return(databases: Databases) -> None:
    databases.review(
        "DELETE FROM sessions WHERE id = 's'; UPDATE join_tokens SET used_at = 1 WHERE hash = 't'"
    )
    assert databases.rows("SELECT id FROM sessions") == ["t"]
    assert databases.rows("SELECT hash FROM join_tokens") == ["u"]


@pytest.mark.parametrize("kind", ["none", "damaged", "of another llb"])
def test_without_a_database_to_compare_with_all_sessions_end(databases: Databases, kind: str) -> None:
    previous: Path | None = databases.previous
    if kind == "none":
        previous = None
    elif kind == "damaged":
        databases.previous.write_bytes(b"\xff" * 9000)
    else:
        other = "UPDATE settings SET value = 'x' WHERE key = 'cluster_id'; DELETE FROM api_keys"
        databases.change(databases.previous, other)
    assert review_restored(databases.restored, previous, revive=False) == RestoreReview()
    assert databases.rows("SELECT count(*) FROM sessions") == [0]
    assert databases.rows("SELECT count(*) FROM join_tokens") == [0]
    assert databases.rows("SELECT count(*) FROM api_keys") == [2]


def test_accounts_that_a_command_made_before_the_first_start_are_compared(databases: Databases) -> None:
    databases.change(databases.restored, "DELETE FROM settings WHERE key = 'cluster_id'")
    assert databases.review("DELETE FROM api_keys WHERE id = 'h'").still_revoked == ["key host"]


def test_a_restore_that_leaves_no_administrator_is_refused_and_changes_nothing(databases: Databases) -> None:
    script = (
        "INSERT INTO users SELECT 'd', 'dan', 'h', 'admin', 0, 2; DELETE FROM users WHERE id IN ('a', 'c')"
    )
    with pytest.raises(SetupError, match="no administrator would be left"):
        databases.review(script)
    assert databases.rows("SELECT id FROM users ORDER BY id") == ["a", "b", "c"]
    assert databases.review(revive=True).revived == ["user ann", "user cid"]


def test_a_host_without_users_needs_no_administrator(databases: Databases) -> None:
    """A command has made its keys before the first start of the server."""
    for path in (databases.restored, databases.previous):
        databases.change(path, "DELETE FROM users; DELETE FROM former_names")
    assert databases.review("DELETE FROM api_keys").still_revoked == ["key host"]
    assert databases.rows("SELECT count(*) FROM api_keys") == [0]
