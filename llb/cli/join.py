"""Commands of joining: `llb join-token`, `llb leave`, and the prompt for the token."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

from msgspec.structs import replace

from llb.base import node_identity, runfile
from llb.cli import output
from llb.cli.client import ApiClient, local_server
from llb.cli.errors import CommandError
from llb.cli.options import client_of, home_of
from llb.config import Config
from llb.wire import LeaveReply, NewJoinToken

STDIN_MARKER = "-"


def create_join_token(options: argparse.Namespace) -> int:
    """`llb join-token`: print the command for the other host; nothing else goes to standard output."""
    token = client_of(options).post("/api/nodes/join-tokens", {}, NewJoinToken)
    if options.json:
        output.print_json(token)
        return 0
    output.print_line(token.command)
    output.print_note("Run this on the host that is to join; it works once, within the hour.")
    start = token.other_command.partition(" --join")[0]
    output.print_note(f"If llb was installed differently there, begin the command with '{start}'.")
    if token.hint is not None:
        output.print_note(token.hint + ".")
    return 0


def leave(options: argparse.Namespace) -> int:
    """`llb leave`: leave the cluster, with or without a running server; the server then runs on its own."""
    home = home_of(options)
    member = node_identity.read_membership(home)
    if member is None:
        raise CommandError("This host has not joined another llb.")
    running = runfile.find_running_server(home)
    if running is not None:
        client = ApiClient(lambda: local_server(running))
        untold = client.post("/api/node/leave", {}, LeaveReply).untold
    else:
        # Imported here, because no other path of this command needs TLS.
        from llb.cluster.join.join_client import notify_leave

        untold = asyncio.run(notify_leave(member))
        node_identity.remove_membership(home)
    output.print_line(f"This host has left {member.balancer_url}; its model files stay.")
    if untold is not None:
        output.print_note(
            f"The balancer could not be notified ({untold}): remove the node {member.name} there."
        )
    return 0


def with_join_token(config: Config) -> Config:
    """`config` with the join token, from standard input for `-` or from a prompt at a terminal.

    A host that has already joined that balancer needs no token.
    """
    known = node_identity.read_membership(config.home)
    if config.join is None or (known is not None and known.balancer_url == config.join):
        return config
    if config.join_token == STDIN_MARKER:
        return replace(config, join_token=sys.stdin.readline().strip() or None)
    if config.join_token is None and known is None and output.is_tty(sys.stdin):
        try:
            return replace(config, join_token=getpass.getpass("Join token: ").strip() or None)
        except EOFError:
            raise CommandError("No token was given; nothing was changed.") from None
    return config
