"""Interactive session of `llb chat`: prompt, history, and the commands that begin with a slash."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llb.cli import output
from llb.cli.chat.conversation import Conversation
from llb.cli.errors import CommandError
from llb.cli.grammar.flags import parse_int, parse_positive_int, parse_temperature

PROMPT, CONTINUATION_PROMPT = ">>> ", "... "
QUOTE = '"""'
HISTORY_NAME = "chat_history"
MAX_HISTORY_LINES = 1000
GREETING = (
    'Ctrl-C stops an answer, Ctrl-D or /bye exits, /help lists more; """ begins and ends several lines.'
)
HELP = '''/system [TEXT]      set the system prompt; without TEXT remove it
/set NAME VALUE     set temperature, seed or max-tokens; VALUE "default" resets it
/set                show system prompt and parameters
/image FILE         send an image with the next message
/clear              start a new conversation
/save FILE          save the conversation
/load FILE          continue a saved conversation
/bye, Ctrl-D        exit
"""                 begin and end a message of several lines
Ctrl-C              stop an answer'''
# Parser of each parameter, and its field in the API.
_PARAMETERS: dict[str, tuple[str, Callable[[str], int | float]]] = {
    "temperature": ("temperature", parse_temperature),
    "seed": ("seed", parse_int),
    "max-tokens": ("max_tokens", parse_positive_int),
}


def run_session(conversation: Conversation, home: Path) -> int:
    """Read messages and commands until the end of the input; returns the exit status."""
    save_history = _load_history(home / HISTORY_NAME)
    output.print_note(GREETING)
    try:
        while True:
            try:
                text = _read_message()
                if text is None:
                    output.print_line()
                    return 0
                if not _run_line(conversation, text):
                    return 0
            except KeyboardInterrupt:
                output.print_note("\nCtrl-D or /bye exits.")
            except CommandError as failure:
                # A failed request or command does not end the conversation.
                output.print_note(str(failure))
    finally:
        save_history()


def _read_message() -> str | None:
    """One message: a line, or several between quotes. None at the end of the input."""
    try:
        line = input(PROMPT)
        if not line.lstrip().startswith(QUOTE):
            return line.strip()
        text = line.lstrip()[len(QUOTE) :]
        while not text.rstrip().endswith(QUOTE):
            text += "\n" + input(CONTINUATION_PROMPT)
    except EOFError:
        return None
    return " " + text.rstrip()[: -len(QUOTE)].strip("\n")


def _run_line(conversation: Conversation, text: str) -> bool:
    """Send a message or run a command; returns whether the session continues."""
    if not text.startswith("/"):
        if text.strip():
            _send(conversation, text.strip())
        return True
    name, _, argument = text[1:].partition(" ")
    argument = argument.strip()
    if name in ("bye", "exit", "quit"):
        return False
    if name in ("help", "?"):
        output.print_note(HELP)
    elif name == "clear":
        conversation.clear()
        output.print_note("A new conversation.")
    elif name == "system":
        conversation.system = argument or None
        output.print_note("The system prompt is set." if argument else "There is no system prompt.")
    elif name == "set":
        _set_parameter(conversation, argument)
    elif name in ("image", "save", "load"):
        _use_file(conversation, name, argument)
    else:
        raise CommandError(
            f"There is no command /{name}: /help lists them. To send this text, begin it with {QUOTE}."
        )
    return True


def _send(conversation: Conversation, text: str) -> None:
    try:
        conversation.send(text)
    except KeyboardInterrupt:
        output.print_note("(stopped)")


def _set_parameter(conversation: Conversation, argument: str) -> None:
    name, _, value = argument.partition(" ")
    if not argument:
        output.print_note(f"system prompt: {conversation.system or 'none'}")
        for shown, (key, _parse) in _PARAMETERS.items():
            output.print_note(f"{shown}: {conversation.parameters.get(key, 'default')}")
        return
    if name not in _PARAMETERS or not value.strip():
        raise CommandError(f"/set takes {', '.join(_PARAMETERS)} and a value, such as /set temperature 0.2.")
    key, parse = _PARAMETERS[name]
    if value.strip() == "default":
        conversation.parameters.pop(key, None)
    else:
        try:
            conversation.parameters[key] = parse(value.strip())
        except argparse.ArgumentTypeError as error:
            raise CommandError(f"{name}: {error}.") from None
    output.print_note(f"{name}: {conversation.parameters.get(key, 'default')}")


def _use_file(conversation: Conversation, name: str, argument: str) -> None:
    if not argument:
        raise CommandError(f"/{name} needs the name of a file.")
    path = Path(argument).expanduser()
    if name == "image":
        conversation.attach_image(path)
        output.print_note(f"{path.name} is sent with the next message.")
    elif name == "save":
        conversation.save(path)
        output.print_note(f"Saved to {path}.")
    else:
        conversation.load(path)
        output.print_note(f"{path} has {len(conversation.messages)} messages.")


def _load_history(path: Path) -> Callable[[], None]:
    """Give `input()` line editing and the lines of earlier sessions; returns what saves them again."""
    try:
        import readline
    except ImportError:
        return lambda: None
    if not path.parent.is_dir() or not output.is_tty(sys.stdin):
        return lambda: None
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(MAX_HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):
            # Only its owner may read what was asked.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(path)

    return save
