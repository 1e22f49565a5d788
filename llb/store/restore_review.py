"""Review of a restored database: what was revoked since the backup stays revoked."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, field

from llb.errors import SetupError

# Label, table and name column of what can be revoked by its removal.
_REMOVABLE = (("user", "users", "username"), ("key", "api_keys", "name"))


class RestoreReview(Struct):
    """Changes by a restore for accounts, nodes and models, as clauses such as "key phone"."""

    # Revoked, removed or changed since the backup, and kept so.
    still_revoked: list[str] = field(default_factory=list)
    # What is in the backup, but not in the previous database, and is valid again.
    revived: list[str] = field(default_factory=list)
    # Ids of models that were removed since the backup, and are wanted again.
    models: list[str] = field(default_factory=list)
    # False: there was none, or it is damaged or of another llb.
    has_previous: bool = False


def review_restored(restored: Path, previous: Path | None, *, revive: bool) -> RestoreReview:
    """Compare the database `restored` with the `previous` one; without `revive`, revoke again in `restored`.

    Sessions and join tokens that the previous database does not have end in any case. Raises `SetupError` if
    no administrator would be left, and `sqlite3.Error` for `restored`.
    """
    review = RestoreReview()
    connection = sqlite3.connect(f"{restored.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        review.has_previous = previous is not None and _attach_previous(connection, previous)
        connection.execute("BEGIN IMMEDIATE")
        # A command may have made keys before the first start of the server has made the first user.
        has_users = connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None
        if review.has_previous:
            # Removing a user removes its keys, which are not named again.
            for clause, statement, parameters in list(_changes_since(connection)):
                review.still_revoked += [] if revive else [clause]
                review.revived += [clause] if revive else []
                if not revive:
                    connection.execute(statement, parameters)
            review.revived += [] if revive else list(_missing(connection))
            review.models = [row[0] for row in connection.execute(_REMOVED_MODELS)]
            connection.execute("DELETE FROM sessions WHERE id NOT IN (SELECT id FROM previous.sessions)")
            connection.execute(
                "DELETE FROM join_tokens WHERE hash NOT IN "
                "(SELECT hash FROM previous.join_tokens WHERE used_at IS NULL)"
            )
        else:
            connection.execute("DELETE FROM sessions")
            connection.execute("DELETE FROM join_tokens")
        if has_users and not connection.execute("SELECT 1 FROM users WHERE role = 'admin'").fetchone():
            raise SetupError(
                "Without what was removed since this backup no administrator would be left: restore it with "
                "--revive, or choose a newer backup."
            )
        connection.execute("COMMIT")
    finally:
        connection.close()
    return review


_REMOVED_MODELS = """
    SELECT model_id FROM main.registrations WHERE state = 'active' AND model_id NOT IN
    (SELECT model_id FROM previous.registrations WHERE state = 'active') ORDER BY 1
"""


def _attach_previous(connection: sqlite3.Connection, previous: Path) -> bool:
    """Attach the previous database; False if it cannot be read, or is of another llb."""
    try:
        connection.execute("ATTACH ? AS previous", (f"{previous.absolute().as_uri()}?mode=ro",))
        query = "SELECT value FROM {}.settings WHERE key = 'cluster_id'"
        clusters = [connection.execute(query.format(name)).fetchone() for name in ("main", "previous")]
        is_intact = connection.execute("PRAGMA previous.quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.Error:
        is_intact = False
    # A command may have made accounts before the first start of the server has chosen the id.
    is_comparable = is_intact and (clusters[0] == clusters[1] or None in clusters)
    if not is_comparable:
        # A transaction would lock it, too.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("DETACH previous")
    return is_comparable


def _changes_since(connection: sqlite3.Connection) -> Iterator[tuple[str, str, tuple[object, ...]]]:
    """What was revoked since the backup: a clause, and the statement that revokes it again."""
    removed_ids = "SELECT id FROM previous.former_names"
    if _descends(connection):
        # Then everything that the previous database lacks was removed from it.
        removed_ids = "SELECT id FROM main.{table} UNION SELECT id FROM previous.former_names"
    for label, table, name in _REMOVABLE:
        for row_id, row_name in connection.execute(
            f"SELECT id, {name} FROM main.{table} WHERE id NOT IN (SELECT id FROM previous.{table}) "  # noqa: S608
            f"AND id IN ({removed_ids.format(table=table)}) ORDER BY 2"
        ):
            yield f"{label} {row_name}", f"DELETE FROM main.{table} WHERE id = ?", (row_id,)  # noqa: S608
    for row_id, name, removed_at in connection.execute(
        "SELECT main.nodes.id, main.nodes.name, then_.removed_at FROM main.nodes "
        "JOIN previous.nodes AS then_ USING (id) "
        "WHERE main.nodes.removed_at IS NULL AND then_.removed_at IS NOT NULL"
    ):
        statement = (
            "UPDATE main.nodes SET removed_at = ?, credential_hash = NULL, hop_credential = NULL WHERE id = ?"
        )
        yield f"node {name}", statement, (removed_at, row_id)
    for row_id, name, password_hash, must_change in connection.execute(
        "SELECT id, main.users.username, then_.password_hash, then_.must_change_password FROM main.users "
        "JOIN previous.users AS then_ USING (id) WHERE main.users.password_hash != then_.password_hash"
    ):
        statement = "UPDATE main.users SET password_hash = ?, must_change_password = ? WHERE id = ?"
        yield f"old password of {name}", statement, (password_hash, must_change, row_id)
    for row_id, name in connection.execute(
        "SELECT id, main.users.username FROM main.users JOIN previous.users AS then_ USING (id) "
        "WHERE main.users.role = 'admin' AND then_.role = 'user'"
    ):
        yield f"admin role of {name}", "UPDATE main.users SET role = 'user' WHERE id = ?", (row_id,)
    for row_id, name, limits, ceiling in connection.execute(
        "SELECT id, main.api_keys.name, then_.limits, then_.ceiling FROM main.api_keys "
        "JOIN previous.api_keys AS then_ USING (id) WHERE main.api_keys.limits IS NOT then_.limits "
        "OR main.api_keys.ceiling IS NOT then_.ceiling"
    ):
        statement = "UPDATE main.api_keys SET limits = ?, ceiling = ? WHERE id = ?"
        yield f"old limits of key {name}", statement, (limits, ceiling, row_id)


def _descends(connection: sqlite3.Connection) -> bool:
    """Whether the previous database contained everything of the backup: it has its last audit record."""
    return bool(
        connection.execute(
            "SELECT 1 FROM (SELECT id, time, action FROM main.audit ORDER BY id DESC LIMIT 1) AS last "
            "JOIN previous.audit AS same ON same.id = last.id AND same.time = last.time "
            "AND same.action = last.action"
        ).fetchone()
    )


def _missing(connection: sqlite3.Connection) -> Iterator[str]:
    """Clauses for what the previous database does not have, although nothing shows that it was removed."""
    for label, table, name in (*_REMOVABLE, ("node", "nodes", "name")):
        for (row_name,) in connection.execute(
            f"SELECT {name} FROM main.{table} WHERE id NOT IN (SELECT id FROM previous.{table}) ORDER BY 1"  # noqa: S608
        ):
            yield f"{label} {row_name}"
