"""Entry point of the command line: parse the arguments, run the command, report its error."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
from collections.abc import Callable, Sequence

from llb import __version__
from llb.base import platform_compat
from llb.cli import output
from llb.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CommandError, UsageError, as_sentence
from llb.cli.grammar.command_parser import Command
from llb.cli.grammar.flags import flags_of
from llb.cli.grammar.parser import parse_arguments
from llb.config import Config, load_config
from llb.errors import LlbError, SetupError

ServeFunction = Callable[[Config], int]


def main(argv: Sequence[str], *, serve: ServeFunction) -> int:
    """Run one command; returns its exit status.

    `serve` runs the server and imports it, so that other commands start quickly.
    """
    try:
        return _run_reporting_errors(argv, serve)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            # Log lines for a full disk; else Python changes the exit status to 120.
            platform_compat.discard_output(2)


def _run_reporting_errors(argv: Sequence[str], serve: ServeFunction) -> int:
    try:
        status = _run(argv, serve)
        # A closed pipe fails here, not at the exit of Python.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Else Python reports it again at exit.
        platform_compat.discard_output(1, 2)
        return 1
    except SystemExit as end:
        # argparse exits with 0 after help and version, with 2 after a usage error.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else 2
        platform_compat.discard_output(1, 2)
        return 1
    except UsageError as error:
        return _report_failure(str(error), EXIT_USAGE)
    except (CommandError, SetupError) as error:
        return _report_failure(str(error))
    except LlbError as error:
        return _report_failure(error.message)
    except sqlite3.Error as error:
        return _report_failure(f"The database cannot be used ({error}): run 'llb doctor' for details")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report_failure(f"{where}{error.strerror or error}")
    return status


def _run(argv: Sequence[str], serve: ServeFunction) -> int:
    options = parse_arguments(argv)
    if options.run is None:
        return serve(_with_join_token(load_config(flags_of(options))))
    run: Command = options.run
    return run(options)


def _with_join_token(config: Config) -> Config:
    if config.join is None:
        return config
    from llb.cli.join import with_join_token

    return with_join_token(config)


def _report_failure(text: str, status: int = EXIT_FAILED) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        # A full disk; else Python reports it again at exit.
        platform_compat.discard_output(1)
    output.print_note(as_sentence(text))
    return status


def version(_options: argparse.Namespace) -> int:
    output.print_line(f"llb {__version__}")
    return 0
