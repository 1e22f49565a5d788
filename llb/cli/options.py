"""Options of several commands: the data directory and the server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llb.cli.client import ApiClient, ServerAddress, find_server
from llb.cli.grammar.flags import flags_of
from llb.config import default_home, parse_home


def home_of(options: argparse.Namespace) -> Path:
    """Data directory of the command: `--home`, else `LLB_HOME`, else the default of this user."""
    text = flags_of(options).get("home") or os.environ.get("LLB_HOME")
    return parse_home(str(text)) if text else default_home()


def client_of(options: argparse.Namespace) -> ApiClient:
    """Client of the server that the options select.

    Raises `ServerUnreachable` when no server runs, `CommandError` for a bad URL or a joined host.
    """
    url = getattr(options, "url", None)
    if url is None and "home" not in flags_of(options):
        # --url and --home both take precedence over the environment.
        url = os.environ.get("LLB_URL")
    if not options.remote:
        # `llb import` reads a file of this host.
        url = None

    def locate() -> ServerAddress:
        return find_server(home_of(options), url, getattr(options, "key", None))

    return ApiClient(locate)
