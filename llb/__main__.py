"""Entry point of `python -m llb` and of the console script `llb`."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from llb.base import installation, platform_compat
from llb.cli import main as command_line
from llb.config import Config


def main(program_file: Path | None = None) -> int:
    """Run the command line; returns the exit status. `program_file`: llb.pyz, if this is started from it."""
    if program_file is not None:
        installation.use_program_file(program_file)
    platform_compat.open_missing_streams()
    return command_line.main(sys.argv[1:], serve=_serve)


def _serve(config: Config) -> int:
    # What a start creates stays, so that looking for cycles in it only costs time: a third of the start. The
    # server enables the collector when it serves.
    gc.disable()
    # Imported here: importing the server takes longer than other commands take to run.
    from llb import server

    return server.run(config)


if __name__ == "__main__":
    sys.exit(main())
