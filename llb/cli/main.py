"""From arguments to an exit status: parse, run the command, and say what failed in one sentence."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence

from llb import __version__
from llb.cli import output
from llb.cli import parser as grammar
from llb.cli.errors import EXIT_INTERRUPTED, CommandError, as_sentence
from llb.config import Config, load_config
from llb.errors import LlbError, SetupError

ServeFunction = Callable[[Config], int]


def main(argv: Sequence[str], *, serve: ServeFunction) -> int:
    """Run one command; returns its exit status. `serve` runs the appliance, and is what imports it."""
    try:
        status = _run(argv, serve)
        sys.stdout.flush()  # a reader that went away is found out here, not at the exit
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 1
    except SystemExit as end:  # argparse: help and version are 0, usage is 2
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            return end.code if isinstance(end.code, int) else 2
        _discard_output()
        return 1
    except (CommandError, SetupError) as error:
        return _report_failure(str(error))
    except LlbError as error:
        return _report_failure(error.message)
    except sqlite3.Error as error:
        return _report_failure(f"The database cannot be used: {error}: 'llb doctor' tells more")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report_failure(f"{where}{error.strerror or error}")
    return status


def _run(argv: Sequence[str], serve: ServeFunction) -> int:
    parser = grammar.build_parser()
    options = parser.parse_args(argv)
    grammar.reject_irrelevant_flags(parser, options)
    if options.run is None:
        return serve(_with_join_token(load_config(grammar.flags_of(options))))
    run: grammar.Command = options.run
    return run(options)


def _with_join_token(config: Config) -> Config:
    if config.join is None:
        return config
    from llb.cli.join import with_join_token

    return with_join_token(config)


def _report_failure(text: str) -> int:
    sys.stdout.flush()
    output.print_note(as_sentence(text))
    return 1


def _discard_output() -> None:
    """Whoever read our output has gone; Python would complain of it once more at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def version(_options: argparse.Namespace) -> int:
    output.print_line(f"llb {__version__}")
    return 0
