"""`llb support-bundle`: one text file for the person who helps, without secrets, addresses and names.

It is text, not an archive, so that a person can read all of it before it is passed on.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from llb import __version__
from llb.base import platform_compat, runfile
from llb.base.runfile import RunInfo
from llb.cli import output
from llb.cli.client import ApiClient, local_server
from llb.cli.errors import CommandError
from llb.cli.host.doctor import load_config_or_default, run_checks
from llb.config import Config, effective_settings
from llb.errors import LlbError
from llb.security.anonymizer import Anonymizer
from llb.security.redaction import SecretRedactor
from llb.store.backup import open_read_only
from llb.store.tables import endpoints, keys, nodes, users
from llb.wire import LogPage

MAX_LOG_LINES = 500
MAX_LOG_FILE_BYTES = 200_000
RESPONSE_TIMEOUT_S = 15.0
_SECRET_VARIABLES = ("TOKEN", "KEY", "PASSWORD", "SECRET")


def write_bundle(options: argparse.Namespace) -> int:
    """`llb support-bundle [FILE]`: shows the text first, then writes it."""
    path = Path(options.file or time.strftime("llb-support-%Y%m%d-%H%M%S.txt")).expanduser().absolute()
    if path.exists():
        raise CommandError(f"{path} already exists: give another file.")
    if not path.parent.is_dir():
        raise CommandError(f"There is no directory {path.parent}.")
    config, _ = load_config_or_default(options)
    output.print_note("Checking this host; the checks take a few seconds.")
    text = build_bundle(options, config)
    if not options.yes:
        output.print_line(text)
        if not output.confirm(f"Write this text to {path}? Nothing is sent.", assume_yes=False):
            raise CommandError("Nothing was written.")
    platform_compat.write_private_file(path, text.encode())
    output.print_line(
        f"Written to {path} ({output.format_size(len(text.encode()))}). Read it before you pass it on."
    )
    return 0


def build_bundle(options: argparse.Namespace, config: Config) -> str:
    """Text of the bundle. A part that cannot be read says why."""
    info = None
    with suppress(OSError):
        info = runfile.find_running_server(config.home)
    sections: list[tuple[str, Callable[[], str]]] = [
        ("Checks (llb doctor)", lambda: _describe_checks(options)),
        ("Settings", lambda: _to_json(effective_settings(config))),
        ("Database", lambda: _describe_database(config)),
    ]
    if info is not None:
        sections += _server_sections(info, is_joined=config.join is not None)
    if (log_file := config.log_file) is not None:
        sections.append((f"End of {log_file}", lambda: _read_end(log_file)))
    parts = [
        f"llb {__version__}, support bundle of {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}",
        "Secrets are removed. Addresses, hosts and names are replaced by placeholders such as <host-1>. No "
        "prompts and answers are included.",
        "" if info is not None else "No server runs on this data directory.",
    ]
    for title, read in sections:
        try:
            content = read()
        except (CommandError, LlbError, OSError, sqlite3.Error) as error:
            content = f"cannot be read: {error}"
        parts.append(f"== {title} ==\n{content}")
    return _create_anonymizer(config, info).anonymize("\n\n".join(part for part in parts if part)) + "\n"


def _describe_checks(options: argparse.Namespace) -> str:
    lines = []
    for finding in run_checks(options):
        remedy = "" if finding.remedy is None else f" → {finding.remedy}"
        lines.append(f"{finding.level.value:<5}{finding.check:<12} {finding.detail}{remedy}")
    return "\n".join(lines)


def _describe_database(config: Config) -> str:
    path = config.database_path
    files = [file for file in sorted(path.parent.glob("*")) if file.is_file()]
    lines = [f"{file.name} {file.stat().st_size} bytes" for file in files]
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        lines.append(f"schema {version}")
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        for (name,) in tables:
            quoted = name.replace('"', '""')
            [count] = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608
            lines.append(f"{name}: {count} rows")
    finally:
        connection.close()
    return "\n".join(lines)


def _server_sections(info: RunInfo, *, is_joined: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """Answers of the running server; each section asks it when it is read."""

    def get(path: str) -> Any:
        return ApiClient(lambda: local_server(info)).get(path, object, RESPONSE_TIMEOUT_S)

    if is_joined:
        yield "Node", lambda: _to_json(get("/api/node"))
        return
    yield "System", lambda: _to_json(get("/api/system"))
    yield "Nodes", lambda: _to_json(get("/api/nodes"))
    yield (
        "Models that are not just Available",
        lambda: _to_json([model for model in get("/api/models")["models"] if model["status"] != "Available"]),
    )
    yield "Endpoints", lambda: _to_json(get("/api/endpoints"))
    yield "Log", lambda: _read_logs(info, get("/api/nodes")["nodes"])


def _read_logs(info: RunInfo, node_list: list[dict[str, Any]]) -> str:
    client = ApiClient(lambda: local_server(info))
    query = urlencode({"limit": MAX_LOG_LINES})
    parts = []
    for node in node_list:
        try:
            path = f"/api/nodes/{quote(node['id'], safe='')}/logs?{query}"
            lines = client.get(path, LogPage, RESPONSE_TIMEOUT_S).lines
            text = "\n".join(
                f"{line.time} {line.level.value} {line.source} {line.text}"
                + (f" [{line.request_id}]" if line.request_id else "")
                for line in lines
            )
        except CommandError as error:
            text = str(error)
        parts.append(f"-- {node['name']}\n{text}")
    return "\n".join(parts)


def _read_end(path: Path) -> str:
    with path.open("rb") as file:
        skipped = path.stat().st_size - MAX_LOG_FILE_BYTES
        if skipped > 0:
            file.seek(skipped)
            # The rest of a line may begin within a name or a credential, which would not be recognized.
            file.readline()
        return file.read().decode(errors="replace")


def _to_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _create_anonymizer(config: Config, info: RunInfo | None) -> Anonymizer:
    """Anonymizer that knows the secrets and names of this host, from its settings and its database."""
    redactor = SecretRedactor()
    redactor.register(config.admin_password, config.hub_token, config.join_token)
    redactor.register(None if info is None else info.token)
    redactor.register(
        *(value for name, value in os.environ.items() if name.upper().endswith(_SECRET_VARIABLES))
    )
    anonymizer = Anonymizer(redactor)
    anonymizer.register_names("person", _user_name())
    anonymizer.register_names(
        "node", config.name, socket.gethostname(), socket.gethostname().partition(".")[0]
    )
    anonymizer.register_names("host", *(name.partition(":")[0] for name in config.allowed_hosts))
    with suppress(sqlite3.Error, OSError, LlbError, msgspec.MsgspecError):
        # The thread of aiosqlite outlives the event loop if there is nothing to open.
        if config.database_path.exists():
            asyncio.run(_register_stored_names(anonymizer, config.database_path))
    return anonymizer


async def _register_stored_names(anonymizer: Anonymizer, path: Path) -> None:
    async with open_read_only(path) as db:
        anonymizer.register_names("person", *(user.username for user in await users.list_users(db)))
        anonymizer.register_names("key", *(key.name for key in await keys.list_keys(db)))
        anonymizer.register_names("node", *(node.name for node in await nodes.list_nodes(db)))
        for endpoint in await endpoints.list_endpoints(db):
            anonymizer.register_names("host", urlsplit(endpoint.base_url).hostname)
            anonymizer.register_names("endpoint", endpoint.name)


def _user_name() -> str | None:
    # A container's user may have no entry in the user database.
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return None
