"""`llb chat ID [PROMPT]`: a single answer, or a conversation."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path

from llb.cli import output
from llb.cli.chat.conversation import Conversation
from llb.cli.chat.session import run_session
from llb.cli.client import ApiClient
from llb.cli.errors import ApiError, CommandError
from llb.cli.models import require_model
from llb.cli.options import client_of, home_of
from llb.wire import ModelStatus

STDIN_MARKER = "-"


def chat(options: argparse.Namespace) -> int:
    """`llb chat`"""
    client = client_of(options)
    parameters = {
        "temperature": options.temperature,
        "seed": options.seed,
        "max_tokens": options.max_tokens,
    }
    given = {name: value for name, value in parameters.items() if value is not None}
    conversation = Conversation(client, options.model_id, options.system, given)
    for image in options.images:
        conversation.attach_image(Path(image).expanduser())
    _require_model_ready(client, options.model_id)
    prompt = _read_prompt(" ".join(options.prompt) if options.prompt else None)
    if prompt is None:
        if options.json:
            raise CommandError("--json needs a prompt: give PROMPT, or pipe one to standard input.")
        return run_session(conversation, home_of(options))
    if options.json:
        output.print_json(conversation.request(prompt))
    else:
        conversation.send(prompt)
    return 0


def _read_prompt(given: str | None) -> str | None:
    """PROMPT, standard input, or both; None at a terminal. Raises `CommandError` if there is no text."""
    if given == STDIN_MARKER:
        piped, given = sys.stdin.read().strip(), ""
    else:
        piped = _read_piped_input()
    parts = [part for part in (given, piped) if part]
    if parts:
        return "\n\n".join(parts)
    if given is None and output.is_tty(sys.stdin):
        return None
    raise CommandError("There is no prompt: give PROMPT, or pipe one to standard input.")


def _read_piped_input() -> str:
    """Standard input if it is a pipe or a file. Never waits for the closed or empty one of a service."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return ""
    return sys.stdin.read().strip() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _require_model_ready(client: ApiClient, model_id: str) -> None:
    """Raise `CommandError` if the model cannot answer. Skipped for a key that may not read the models."""
    if "/" in model_id:
        # ENDPOINT/MODEL: the catalogue does not have it, and the gateway says whether it exists.
        return
    try:
        item = require_model(client, model_id)
    except ApiError as error:
        if error.status == 403:
            return
        raise
    name = item.model.id
    if item.status is ModelStatus.AVAILABLE:
        raise CommandError(f"Model '{name}' has not been pulled: 'llb pull {name}' does that.")
    if item.status is ModelStatus.ERROR:
        raise CommandError(
            f"Model '{name}' could not be pulled: {item.error}; try again with 'llb pull {name}'."
        )
    if item.status is not ModelStatus.READY:
        done = output.format_percent(item.download_progress or 0.0)
        raise CommandError(
            f"Model '{name}' is still downloading ({done} complete): 'llb pull {name}' follows it."
        )
