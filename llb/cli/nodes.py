"""The hosts of a cluster: listed, drained, renamed, removed."""

from __future__ import annotations

import argparse
import difflib
import time
from typing import Any
from urllib.parse import quote

from llb.cli import output
from llb.cli.client import Client
from llb.cli.errors import Failure
from llb.cli.models import client_of
from llb.wire import NodeList, NodeStatus, NodeView, ReachView, ReplicaState

NOTHING = "-"


def show(options: argparse.Namespace) -> int:
    """`llb nodes`"""
    listed = client_of(options).get("/api/nodes", NodeList)
    if options.json:
        output.show_json(listed)
        return 0
    output.show_table(
        ("NAME", "STATUS", "WAY", "CPU", "GPU", "MEMORY USED", "FOR MODELS", "DISK FREE", "MODELS", "BUSY"),
        [row(node, time.time()) for node in listed.nodes],
        right=(6, 7, 8, 9),
    )
    return 0


def drain(options: argparse.Namespace) -> int:
    """`llb nodes drain NAME`"""
    client = client_of(options)
    node = _meant(client, options.node)
    _change(client, node, {"draining": not options.off})
    if options.off:
        output.say(f"{node.name} gets requests again.")
    else:
        output.say(f"{node.name} gets no new requests; those that it is answering go on.")
        output.note(f"'llb nodes drain {node.name} --off' takes it back.")
    return 0


def rename(options: argparse.Namespace) -> int:
    """`llb nodes rename NAME NEW`"""
    client = client_of(options)
    node = _meant(client, options.node)
    _change(client, node, {"name": options.new_name})
    output.say(f"{node.name} is called {options.new_name} now.")
    return 0


def remove(options: argparse.Namespace) -> int:
    """`llb nodes remove NAME`"""
    client = client_of(options)
    node = _meant(client, options.node)
    question = f"Remove {node.name}? Its model files stay there; to come back it needs a new join token."
    if not output.confirmed(question, yes=options.yes):
        raise Failure("Nothing was removed.")
    client.delete(_path(node))
    output.say(f"{node.name} is removed; its model files are where they were.")
    output.note("'llb leave' on that host lets it stand alone.")
    return 0


def _meant(client: Client, name: str) -> NodeView:
    """The node of this id or name, or a `Failure` that names those which are spelt nearly so."""
    found = client.get("/api/nodes", NodeList).nodes
    for node in found:
        if name == node.id or name.casefold() == node.name.casefold():
            return node
    near = difflib.get_close_matches(name, [node.name for node in found], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "'llb nodes' lists them."
    raise Failure(f"There is no node '{name}': {hint}")


def _path(node: NodeView) -> str:
    return f"/api/nodes/{quote(node.id, safe='')}"


def _change(client: Client, node: NodeView, patch: dict[str, Any]) -> None:
    client.ask("PATCH", _path(node), patch)


def row(node: NodeView, now: float) -> tuple[str, ...]:
    """A node as `llb nodes` lists it; what nobody can know of one that is away is left out."""
    hardware = node.hardware
    heard = node.status is not NodeStatus.JOINING
    online = node.status is NodeStatus.ONLINE
    gpus = ", ".join(gpu.name if gpu.usable else f"{gpu.name} (not usable)" for gpu in hardware.gpus)
    used = f"{output.per_cent(node.meters.memory_usage)} of {output.size(hardware.memory_total_bytes)}"
    return (
        node.name,
        _status(node, now),
        _way(node.reach) if online else NOTHING,
        f"{hardware.cpu_count} × {hardware.cpu}" if heard else NOTHING,
        gpus or NOTHING,
        used if online else NOTHING,
        output.size(node.memory_budget_bytes) if heard else NOTHING,
        output.size(node.disk_free_bytes) if online else NOTHING,
        str(sum(replica.state is ReplicaState.READY for replica in node.replicas)),
        f"{node.active_requests}/{node.slots}" if online else NOTHING,
    )


def _status(node: NodeView, now: float) -> str:
    """ "online", "online (draining)", "offline (2 h 5 min, draining)" """
    details = [
        *([output.span(now - node.last_seen)] if node.status is NodeStatus.OFFLINE else []),
        *(["draining"] if node.draining else []),
    ]
    return f"{node.status} ({', '.join(details)})" if details else str(node.status)


def _way(reach: ReachView) -> str:
    if reach.way == "local":
        return "this host"
    if reach.way == "none":
        return "none"
    return reach.way if reach.answer_ms is None else f"{reach.way}, {reach.answer_ms:.1f} ms"
