"""Entry point of `python -m llb` and of the console script `llb`."""

from __future__ import annotations

import sys

from llb.base import platform_compat
from llb.cli import main as command_line
from llb.config import Config


def main() -> int:
    """Run the command line; returns the exit status."""
    platform_compat.open_missing_streams()
    return command_line.main(sys.argv[1:], serve=_serve)


def _serve(config: Config) -> int:
    # Imported here: importing the server takes longer than other commands take to run.
    from llb import server

    return server.run(config)


if __name__ == "__main__":
    sys.exit(main())
