"""Commands for the nodes of a cluster: list, drain, rename, remove."""

from __future__ import annotations

import argparse
import difflib
import time
from typing import Any
from urllib.parse import quote

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import CommandError
from llb.cli.options import client_of
from llb.cli.tables import EMPTY_CELL, print_table
from llb.wire import NodeList, NodeStatus, NodeView, ReachView, ReplicaState


def list_nodes(options: argparse.Namespace) -> int:
    """`llb nodes`"""
    node_list = client_of(options).get("/api/nodes", NodeList)
    if options.json:
        output.print_json(node_list)
        return 0
    print_table(
        ("NAME", "STATUS", "LINK", "CPU", "GPU", "RAM USED", "FOR MODELS", "DISK FREE", "MODELS", "ACTIVE"),
        [node_row(node, time.time()) for node in node_list.nodes],
        right_aligned=(6, 7, 8, 9),
        flexible=4,
        droppable=(3, 5, 2, 4, 7),
    )
    return 0


def drain_node(options: argparse.Namespace) -> int:
    """`llb nodes drain NAME`"""
    client = client_of(options)
    node = find_node(client, options.node)
    _update_node(client, node, {"draining": not options.off})
    if options.off:
        output.print_line(f"{node.name} gets requests again.")
    else:
        output.print_line(f"{node.name} gets no new requests; running ones continue.")
        output.print_note(f"'llb nodes drain {node.name} --off' undoes this.")
    return 0


def rename_node(options: argparse.Namespace) -> int:
    """`llb nodes rename NAME NEW`"""
    client = client_of(options)
    node = find_node(client, options.node)
    _update_node(client, node, {"name": options.new_name})
    output.print_line(f"{node.name} is now called {options.new_name}.")
    return 0


def remove_node(options: argparse.Namespace) -> int:
    """`llb nodes remove NAME`"""
    client = client_of(options)
    node = find_node(client, options.node)
    question = f"Remove {node.name}? Its model files stay there; to join again it needs a new join token."
    if not output.confirm(question, assume_yes=options.yes):
        raise CommandError("Nothing was removed.")
    client.delete(_node_path(node))
    output.print_line(f"{node.name} was removed; its model files stay there.")
    output.print_note("Run 'llb leave' on that host to use it on its own.")
    return 0


def find_node(client: ApiClient, name: str) -> NodeView:
    """Node with this id or name. Raises `CommandError` with similar names if there is none."""
    found = client.get("/api/nodes", NodeList).nodes
    for node in found:
        if name == node.id or name.casefold() == node.name.casefold():
            return node
    similar = difflib.get_close_matches(name, [node.name for node in found], n=3)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "'llb nodes' lists them."
    raise CommandError(f"There is no node '{name}': {hint}")


def _node_path(node: NodeView) -> str:
    return f"/api/nodes/{quote(node.id, safe='')}"


def _update_node(client: ApiClient, node: NodeView, patch: dict[str, Any]) -> None:
    client.request("PATCH", _node_path(node), patch)


def node_row(node: NodeView, now: float) -> tuple[str, ...]:
    """Row of `llb nodes`. Cells that are unknown while the node is offline are empty."""
    hardware = node.hardware
    has_hello = node.status is not NodeStatus.JOINING
    online = node.status is NodeStatus.ONLINE
    gpus = ", ".join(gpu.name if gpu.usable else f"{gpu.name} (not usable)" for gpu in hardware.gpus)
    memory_total = output.format_size(hardware.memory_total_bytes)
    used = f"{output.format_percent(node.meters.memory_usage)} of {memory_total}"
    return (
        node.name,
        _format_status(node, now),
        _format_route(node.reach) if online else EMPTY_CELL,
        f"{hardware.cpu_count} × {hardware.cpu}" if has_hello else EMPTY_CELL,
        gpus or EMPTY_CELL,
        used if online else EMPTY_CELL,
        output.format_size(node.memory_budget_bytes) if has_hello else EMPTY_CELL,
        output.format_size(node.disk_free_bytes) if online else EMPTY_CELL,
        str(sum(replica.state is ReplicaState.READY for replica in node.replicas)),
        _format_activity(node) if online else EMPTY_CELL,
    )


def _format_activity(node: NodeView) -> str:
    """Running requests, and the slots of the loaded models: "2 of 4"; "0" while nothing is loaded."""
    return f"{node.active_requests} of {node.slots}" if node.slots else str(node.active_requests)


def _format_status(node: NodeView, now: float) -> str:
    """ "online", "online (draining)", "offline (2 h 5 min, draining)" """
    details = [
        *([output.format_duration(now - node.last_seen)] if node.status is NodeStatus.OFFLINE else []),
        *(["draining"] if node.draining else []),
    ]
    return f"{node.status} ({', '.join(details)})" if details else str(node.status)


def _format_route(route: ReachView) -> str:
    if route.way == "local":
        return "this host"
    if route.way == "none":
        return "none"
    return route.way if route.answer_ms is None else f"{route.way}, {route.answer_ms:.1f} ms"
