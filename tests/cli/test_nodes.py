"""`llb nodes` with a real server and a joined host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from llb.cli.nodes import node_row
from llb.wire import Hardware, Meters, NodeStatus, NodeView, ReachView, ReachWay
from tests.cli.conftest import CommandHost


@pytest.fixture(scope="module")
def cellar(served: CommandHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandHost]:
    """Host that has joined `served`."""
    token = served.run_json_command("join-token")["token"]
    command_host = CommandHost(
        tmp_path_factory.mktemp("cellar") / "home", HF_ENDPOINT=served.env["HF_ENDPOINT"]
    )
    command_host.start_server(
        "--join", served.url, "--token", token, "--name", "cellar", "--host", "127.0.0.1"
    )
    yield command_host
    command_host.stop_server()


def named(served: CommandHost, name: str) -> dict[str, Any]:
    [node] = [node for node in served.run_json_command("nodes")["nodes"] if node["name"] == name]
    return dict(node)


def test_each_node_is_a_row(served: CommandHost, cellar: CommandHost) -> None:
    heading, attic, other = served.run_command("nodes").stdout.splitlines()
    assert heading.split()[:4] == ["NAME", "STATUS", "LINK", "CPU"]
    assert attic.split()[:4] == ["attic", "online", "this", "host"]
    assert other.split()[:2] == ["cellar", "online"]
    assert served.run_command("nodes", "list").stdout.splitlines()[0] == heading
    assert [node["name"] for node in served.run_json_command("nodes", "list")["nodes"]] == ["attic", "cellar"]


def test_the_log_of_each_node(served: CommandHost, cellar: CommandHost) -> None:
    own = [json.loads(line) for line in served.run_command("logs", "--json").stdout.splitlines()]
    assert {line["source"] for line in own} == {"server"}
    assert any("cellar" in line["text"] for line in own)
    other = served.run_command("logs", "cellar", "--level", "info", "-n", "1000").stdout
    assert "llb.cluster" in other
    assert other != served.run_command("logs").stdout
    assert served.run_failing_command("logs", "attc") == "There is no node 'attc': did you mean attic?"
    assert served.run_command("logs", "--grep", "no line has this").stdout == ""


def test_new_lines_are_followed(served: CommandHost, cellar: CommandHost) -> None:
    following = served.start_command("logs", "-f", "--grep", "draining", "--json")
    try:
        assert following.stdout is not None
        for flags in ((), ("--off",)):
            served.run_command("nodes", "drain", "cellar", *flags)
        assert "draining" in json.loads(following.stdout.readline())["text"]
    finally:
        following.terminate()
        following.communicate(timeout=30)


def test_drained_and_resumed(served: CommandHost, cellar: CommandHost) -> None:
    done = served.run_command("nodes", "drain", "Cellar")
    assert done.stdout == "cellar gets no new requests; running ones continue.\n"
    assert "--off" in done.stderr
    assert "online (draining)" in served.run_command("nodes").stdout
    assert served.run_command("nodes", "drain", "cellar", "--off").stdout == "cellar gets requests again.\n"
    assert not named(served, "cellar")["draining"]


def test_renamed(served: CommandHost, cellar: CommandHost) -> None:
    node_id = named(served, "cellar")["id"]
    assert (
        served.run_command("nodes", "rename", "cellar", "garage").stdout == "cellar is now called garage.\n"
    )
    assert named(served, "garage")["id"] == node_id
    assert "Another node is already called 'attic'" in served.run_failing_command(
        "nodes", "rename", "garage", "attic"
    )
    assert "letters, digits" in served.run_failing_command("nodes", "rename", "garage", "a b")
    assert "--name" in served.run_failing_command("nodes", "rename", "attic", "loft")
    served.run_command("nodes", "rename", node_id, "cellar")


def test_an_unknown_node_is_reported_with_similar_names(served: CommandHost, cellar: CommandHost) -> None:
    for command in ("drain", "remove"):
        assert (
            served.run_failing_command("nodes", command, "celar")
            == "There is no node 'celar': did you mean cellar?"
        )
    assert "'llb nodes' lists them" in served.run_failing_command("nodes", "drain", "zzzz")


def test_removed_after_a_confirmation(served: CommandHost, cellar: CommandHost) -> None:
    assert "cannot remove itself" in served.run_failing_command("nodes", "remove", "attic", "--yes")
    with served.open_terminal("nodes", "remove", "cellar") as terminal:
        terminal.expect(
            "Remove cellar? Its model files stay there; to join again it needs a new join token. [y/N] "
        )
        terminal.write("\n")
        assert terminal.wait() == 1
    done = served.run_command("nodes", "remove", "cellar", "--yes")
    assert done.stdout == "cellar was removed; its model files stay there.\n"
    assert [node["name"] for node in served.run_json_command("nodes")["nodes"]] == ["attic"]


NODE = NodeView(
    id="n1", name="cellar", status=NodeStatus.ONLINE, draining=False, address=None,
    reach=ReachView(way=ReachWay("direct"), answer_ms=0.42), version="1", platform="Linux", tags=(),
    hardware=Hardware(cpu="cpu", cpu_count=2, memory_total_bytes=8_000_000_000),
    meters=Meters(memory_usage=0.5),
    memory_budget_bytes=6_000_000_000, memory_used_bytes=0, disk_free_bytes=9_000_000_000, max_downloads=2,
    active_requests=1, slots=4, engines=(), replicas=(), last_seen=1_000.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {},
            "cellar | online | direct, 0.4 ms | 2 × cpu | - | 50 % of 8 GB | 6 GB | 9 GB | 0 | 1 of 4",
        ),
        (
            {"status": NodeStatus.OFFLINE, "draining": True},
            "cellar | offline (2 h 0 min, draining) | - | 2 × cpu | - | - | 6 GB | - | 0 | -",
        ),
        ({"status": NodeStatus.JOINING}, "cellar | joining | - | - | - | - | - | - | 0 | -"),
        ({"reach": ReachView(way=ReachWay("local"))}, "this host"),
        ({"reach": ReachView(way=ReachWay("reverse"), answer_ms=1.25)}, "reverse, 1.2 ms"),
        ({"reach": ReachView(way=ReachWay("none"))}, "| none |"),
    ],
)
def test_the_cells_of_a_row(changes: dict[str, Any], shown: str) -> None:
    assert shown in " | ".join(node_row(structs.replace(NODE, **changes), now=8_200.0))
