"""`python -m llb`, and the console script `llb`."""

from __future__ import annotations

import sys

from llb import cli
from llb.config import Config


def main() -> int:
    return cli.main(sys.argv[1:], serve=_serve)


def _serve(config: Config) -> int:
    # Imported here: no other command needs the server, and it takes longer to import than they take to run.
    from llb import server

    return server.run(config)


if __name__ == "__main__":
    sys.exit(main())
