"""Flags that several commands have, and the parsers of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from llb.base.units import parse_duration, parse_size
from llb.config import SETTINGS, Setting


def flags_of(options: argparse.Namespace) -> dict[str, str | list[str]]:
    """Values of the given flags by `Setting.field`, for `load_config`."""
    return {
        setting.field: getattr(options, dest_of(setting))
        for setting in SETTINGS
        if hasattr(options, dest_of(setting))
    }


def add_settings(
    parser: argparse.ArgumentParser, excluded: str | None = None, *, is_hidden: bool = False
) -> None:
    """Add the flags of the server; hidden ones are accepted, but not in the help."""
    group: argparse._ActionsContainer = parser
    if not is_hidden:
        group = parser.add_argument_group("settings", "also as environment variables and in llb.toml")
    for setting in SETTINGS:
        if setting.flag is not None and setting.field != excluded:
            add_setting(group, setting, is_hidden=is_hidden)


def add_setting(parser: argparse._ActionsContainer, setting: Setting, *, is_hidden: bool = False) -> None:
    # Checked by the callers.
    assert setting.flag is not None  # noqa: S101
    help_text = argparse.SUPPRESS if is_hidden else setting.help
    if setting.is_switch:
        parser.add_argument(
            setting.flag,
            dest=dest_of(setting),
            help=help_text,
            default=argparse.SUPPRESS,
            action="store_const",
            const="on",
        )
        return
    parser.add_argument(
        setting.flag,
        dest=dest_of(setting),
        metavar=setting.metavar,
        help=help_text,
        default=argparse.SUPPRESS,
        action="append" if setting.is_repeatable else "store",
        type=_validating_parser(setting),
    )


def dest_of(setting: Setting) -> str:
    # The prefix avoids conflicts with arguments of commands, such as NAME.
    return f"setting_{setting.field}"


def add_remote_flags(parser: argparse.ArgumentParser, *, is_hidden: bool = False) -> None:
    parser.add_argument(
        "--url",
        metavar="URL",
        help=argparse.SUPPRESS if is_hidden else "address of the llb server to use (LLB_URL)",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help=argparse.SUPPRESS
        if is_hidden
        else "API key for that server; better set LLB_API_KEY, because ps shows flags",
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")


def add_yes_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--yes",
        "-y",
        action="store_true",
        default=False,
        help="do not ask for confirmation; required without a terminal",
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model_id", metavar="ID", help="id of the model, as 'llb models' lists it")


def add_node_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="name or id")


def add_key_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key_name", metavar="KEY", help="name, id or prefix of the key")


def add_limit_flags(
    parser: argparse.ArgumentParser, parse: Callable[[str], object], help_suffix: str
) -> None:
    for flag, quantity in (
        ("--rpm", "requests per minute"),
        ("--tpm", "tokens per minute, in prompts and answers"),
        ("--concurrent", "concurrent requests"),
    ):
        parser.add_argument(
            flag,
            metavar="N",
            type=parse,
            default=argparse.SUPPRESS,
            help=f"limit of {quantity}{help_suffix}",
        )


def _validating_parser(setting: Setting) -> Callable[[str], str]:
    """Parser that returns the text unchanged, and makes an invalid value a usage error."""

    def check_value(text: str) -> str:
        try:
            setting.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' {error}") from None
        return text

    return check_value


def parse_positive_int(text: str) -> int:
    """Value of a flag that counts. Raises `ArgumentTypeError`."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def parse_positive_int_or_none(text: str) -> int | None:
    return None if text == "none" else parse_positive_int(text)


def parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None


def parse_duration_flag(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' {error}") from None


def parse_temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 2.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and 2")
    return value


def parse_size_flag(text: str) -> int:
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' {error}") from None
    if size_bytes <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 8GB")
    return size_bytes


def parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(parse_size_flag(part) for part in text.split(","))
