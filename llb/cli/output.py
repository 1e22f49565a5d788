"""Output of the commands: lines, sizes, times, prompts.

Rich is imported at first use: the import takes a fifth of the start time.
"""

from __future__ import annotations

import getpass
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from llb.cli.errors import CommandError, UsageError
from llb.texts.coded_text import encode_plain

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough that Rich truncates nothing in piped output.
PIPE_WIDTH_COLUMNS = 1000
# Names and answers come from other hosts and may contain escape sequences.
_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_STYLE_BY_STATE = {
    "Ready": "green",
    "online": "green",
    "fits": "green",
    "ok": "green",
    "Downloading": "cyan",
    "Registered": "cyan",
    "joining": "cyan",
    "tight": "yellow",
    "warn": "yellow",
    "offline": "yellow",
    "Error": "red",
    "bad": "bold red",
    "too_large": "red",
    "Available": "dim",
    "unknown": "dim",
}


_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def is_tty(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def create_console(*, stderr: bool = False) -> Console:
    """Console for tables and progress bars; without a terminal it writes plain text of any width."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        width=None if is_tty(stream) else PIPE_WIDTH_COLUMNS,
        highlight=False,
        markup=False,
        emoji=False,
    )


def strip_control_chars(text: str) -> str:
    """`text` without control and bidirectional characters."""
    return _CONTROL_CHARS.sub("", text)


def print_line(text: str = "") -> None:
    print(strip_control_chars(text), flush=True)


def print_note(text: str) -> None:
    """Print a message to standard error, so that the result on standard output can be piped."""
    print(wrap_for(sys.stderr, strip_control_chars(text)), file=sys.stderr, flush=True)


def print_details(lines: Sequence[tuple[str, str]]) -> None:
    """Print names with their values, one a line; at a terminal long values are indented."""
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        label = f"{name.ljust(width)}  "
        print_line(wrap_for(sys.stdout, strip_control_chars(label + text), indent=len(label)))


def wrap_for(stream: TextIO | None, text: str, *, indent: int = 0) -> str:
    """Return `text` with its lines broken between words at the width of a terminal; unchanged for others."""
    if not is_tty(stream):
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        line
        if len(line) <= width
        else textwrap.fill(
            line,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        for line in text.split("\n")
    )


def print_json(value: Any) -> None:
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=encode_plain)).decode()
    # JSON may contain the others as they are.
    print(_CONTROL_CHARS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON, for programs that read line by line."""
    print_line(msgspec.json.encode(value).decode())


def style_of(word: str) -> str:
    """Style of a state; "" for any other text."""
    first = word.partition(" ")[0]
    return _STYLE_BY_STATE.get(word, _STYLE_BY_STATE.get(first, ""))


# --- numbers -----------------------------------------------------------------------------------------


def format_size(size_bytes: float | None) -> str:
    """Size in decimal units as the page writes it: one decimal below 100, half up; "-" for None."""
    if size_bytes is None:
        return "-"
    size = Decimal(round(size_bytes))
    unit = 0
    while abs(size) >= Decimal("999.5") and unit < len(_SIZE_UNITS) - 1:
        size /= 1000
        unit += 1
    step = Decimal(1) if unit == 0 or abs(size) >= Decimal("99.95") else Decimal("0.1")
    rounded = size.quantize(step, ROUND_HALF_UP)
    return f"{rounded:f} {_SIZE_UNITS[unit]}".replace(".0 ", " ")


def format_percent(fraction: float | None) -> str:
    """Percentage, rounded down so that only a finished download shows 100 %; "-" for None."""
    return "-" if fraction is None else f"{int(fraction * 100)} %"


def format_duration(seconds: float | None) -> str:
    """Duration in its two largest units: "45 s", "3 min 20 s", "2 h 5 min", "3 d"; "-" for None."""
    if seconds is None:
        return "-"
    total_s = max(0, round(seconds))
    if total_s < 60:
        return f"{total_s} s"
    if total_s < 3600:
        return f"{total_s // 60} min {total_s % 60} s"
    if total_s < 86_400:
        return f"{total_s // 3600} h {total_s % 3600 // 60} min"
    return f"{total_s // 86_400} d"


def format_time(at: float | None) -> str:
    """Date and time of Unix seconds `at` in the time zone of this host; "-" for None."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


# --- prompts -----------------------------------------------------------------------------------------


def confirm(question: str, *, assume_yes: bool) -> bool:
    """Ask for confirmation; True with `assume_yes`. Raises `UsageError` without a terminal."""
    if assume_yes:
        return True
    if not is_tty(sys.stdin):
        raise UsageError(f"{question} Without a terminal this needs --yes; nothing was changed.")
    print(f"{strip_control_chars(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def read_secret(prompt: str) -> str:
    """Ask for a secret without showing it, or read it from standard input. Raises `CommandError`."""
    if not is_tty(sys.stdin):
        secret = sys.stdin.readline().strip()
    else:
        try:
            secret = getpass.getpass(prompt).strip()
        except EOFError:
            secret = ""
    if not secret:
        raise CommandError("Nothing was entered, so nothing was changed.")
    return secret


def read_new_password(username: str) -> str:
    """New password, prompted for twice at a terminal, else the first line of standard input.

    Never an argument, because `ps` shows arguments. Raises `CommandError`.
    """
    if not is_tty(sys.stdin):
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            raise CommandError("No password was given: type it at the prompt, or pipe it to standard input.")
        return line
    try:
        first = getpass.getpass(f"New password for {username}: ")
        second = getpass.getpass("Repeat the password: ")
    except EOFError:
        raise CommandError("No password was given; nothing was changed.") from None
    if first != second:
        raise CommandError("The passwords differ; nothing was changed.")
    return first
