"""Arguments of the commands for nodes and joining."""

from __future__ import annotations

from llb.cli.grammar.command_parser import CommandAdder, add_actions
from llb.cli.grammar.flags import add_json_flag, add_node_argument, add_yes_flag, parse_positive_int
from llb.wire import LogLevel


def add_node_commands(commands: CommandAdder) -> None:
    """Add `nodes`, `logs`, `join-token`, `leave`."""
    nodes = commands.add(
        "nodes",
        "list, drain, rename and remove nodes",
        "nodes:list_nodes",
        remote=True,
        examples=("llb nodes", "llb nodes drain attic", "llb nodes drain attic --off"),
    )
    add_json_flag(nodes)
    actions = add_actions(nodes)
    actions.add_json("list", "list nodes and their hardware", "nodes:list_nodes", remote=True)
    drain = actions.add("drain", "stop sending new requests to a node", "nodes:drain_node", remote=True)
    add_node_argument(drain)
    drain.add_argument("--off", action="store_true", default=False, help="resume sending requests")
    rename = actions.add("rename", "rename a node", "nodes:rename_node", remote=True)
    add_node_argument(rename)
    rename.add_argument("new_name", metavar="NEW", help="new name")
    remove = actions.add("remove", "remove a node; its model files stay", "nodes:remove_node", remote=True)
    add_node_argument(remove)
    add_yes_flag(remove)

    logs = commands.add(
        "logs",
        "show the log of a node and its engines",
        "logs:show_logs",
        remote=True,
        details="The last lines that the server keeps in memory; a service also logs to its journal.",
        examples=("llb logs -f", "llb logs attic --level warning", "llb logs --source qwen3-4b --grep error"),
    )
    logs.add_argument("node", nargs="?", metavar="NODE", default=None, help="name or id (default: this host)")
    logs.add_argument("--follow", "-f", action="store_true", default=False, help="wait for new lines")
    logs.add_argument(
        "--lines",
        "-n",
        metavar="N",
        type=parse_positive_int,
        default=200,
        help="number of lines (default: 200)",
    )
    logs.add_argument(
        "--level",
        choices=[level.value for level in LogLevel],
        default=LogLevel.DEBUG.value,
        help="least severity",
    )
    logs.add_argument(
        "--source", metavar="NAME", default=None, help="server, or the id of a model: its engine"
    )
    logs.add_argument("--grep", metavar="TEXT", default=None, help="only lines with this text or request id")
    add_json_flag(logs)

    token = commands.add(
        "join-token",
        "print a command that adds another machine",
        "join:create_join_token",
        remote=True,
        details="The command works once, within an hour.",
    )
    add_json_flag(token)
    commands.add("leave", "leave the cluster; model files stay", "join:leave")
