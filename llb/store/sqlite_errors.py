"""Messages for SQLite errors that the disk or the host causes."""

from __future__ import annotations

import sqlite3

from llb.texts.coded_text import CodedText

# Messages by primary result code, https://sqlite.org/rescode.html. Any other code is a bug in llb.
_MESSAGE_BY_RESULT_CODE = {
    sqlite3.SQLITE_FULL: CodedText("storage_full", "The disk of this host is full"),
    sqlite3.SQLITE_BUSY: CodedText(
        "database_in_use", "The database of this host is in use by another program"
    ),
    sqlite3.SQLITE_LOCKED: CodedText(
        "database_in_use", "The database of this host is in use by another program"
    ),
    sqlite3.SQLITE_READONLY: CodedText("database_read_only", "The database of this host cannot be written"),
    sqlite3.SQLITE_IOERR: CodedText("storage_broken", "The disk of this host does not work"),
    sqlite3.SQLITE_CANTOPEN: CodedText("database_not_opened", "The database of this host cannot be opened"),
    sqlite3.SQLITE_CORRUPT: CodedText("database_is_damaged", "The database of this host is damaged"),
    sqlite3.SQLITE_NOTADB: CodedText("database_is_damaged", "The database of this host is damaged"),
    sqlite3.SQLITE_NOMEM: CodedText("host_out_of_memory", "This host has no memory left"),
}
# Messages by extended result code, looked up first.
_MESSAGE_BY_EXTENDED_CODE = {
    sqlite3.SQLITE_READONLY_DBMOVED: CodedText(
        "database_moved",
        "The database file of this host was deleted, moved or replaced while llb runs: put it back, or "
        "restart llb",
    ),
}


def describe_sqlite_error(error: sqlite3.Error) -> CodedText | None:
    """Message for an error of disk, file or memory, as a clause; None for any other error."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    return _MESSAGE_BY_EXTENDED_CODE.get(code) or _MESSAGE_BY_RESULT_CODE.get(code & 0xFF)
