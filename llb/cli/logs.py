"""`llb logs [NODE]`: the log of a node and of its engines, as its server keeps it in memory."""

from __future__ import annotations

import argparse
import sys
import time
from urllib.parse import quote, urlencode

from llb.base.logs.visible_text import make_visible
from llb.base.timestamps import from_iso
from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import EXIT_INTERRUPTED, CommandError
from llb.cli.nodes import find_node
from llb.cli.options import client_of
from llb.wire import LogLevel, LogLine, LogPage, NodeList, NodeView

# How long the server waits for a line before it answers without one.
FOLLOW_WAIT_S = 15.0
RESPONSE_TIMEOUT_S = 40.0
MAX_PAGE_LINES = 1000
_STYLES = {LogLevel.ERROR: "red", LogLevel.WARNING: "yellow", LogLevel.DEBUG: "dim"}


def show_logs(options: argparse.Namespace) -> int:
    """`llb logs`"""
    client = client_of(options)
    node = _own_node(client) if options.node is None else find_node(client, options.node)
    try:
        page = _read_page(client, node, options, after=None)
        _print_lines(page, options)
        while options.follow:
            page = _read_page(client, node, options, after=page.next)
            _print_lines(page, options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _read_page(client: ApiClient, node: NodeView, options: argparse.Namespace, after: int | None) -> LogPage:
    values = {
        "after": after,
        "limit": MAX_PAGE_LINES if after is not None else min(options.lines, MAX_PAGE_LINES),
        "level": options.level,
        "source": options.source,
        "q": options.grep,
        "wait_s": None if after is None else FOLLOW_WAIT_S,
    }
    query = urlencode({name: value for name, value in values.items() if value is not None})
    path = f"/api/nodes/{quote(node.id, safe='')}/logs?{query}"
    return client.get(path, LogPage, RESPONSE_TIMEOUT_S)


def _own_node(client: ApiClient) -> NodeView:
    """The node in the process of the server, which is the first of the list."""
    nodes = client.get("/api/nodes", NodeList).nodes
    if not nodes:
        raise CommandError("The server does not know its own hardware yet: try again in a second.")
    return nodes[0]


def _print_lines(page: LogPage, options: argparse.Namespace) -> None:
    for line in page.lines:
        if options.json:
            output.print_json_line(line)
        else:
            _print_line(line)


def _print_line(line: LogLine) -> None:
    at = time.strftime("%H:%M:%S", time.localtime(from_iso(line.time, "time")))
    # Each text is the node's own, and must stay within its line.
    prefix = f"{at} {line.level.upper():<7} {make_visible(line.source)}: "
    suffix = f" [{line.request_id}]" if line.request_id else ""
    shown = make_visible(line.text + suffix)
    if not output.is_tty(sys.stdout):
        output.print_line(f"{line.time} {prefix[9:]}{shown}")
        return
    from rich.text import Text

    text = Text.assemble((f"{at} ", "dim"), (prefix[9:], _STYLES.get(line.level, "")), shown)
    output.create_console().print(text, soft_wrap=True)
