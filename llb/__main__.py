"""Entry point of `python -m llb` and of the console script `llb`."""

from __future__ import annotations

import gc
import os
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
    # Objects created at the start live as long as the process, so scanning them for cycles would cost a third
    # of the start. The server enables the collector when it serves.
    gc.disable()
    _begin_device_query(config)
    # Imported here: importing the server takes longer than other commands take to run.
    from llb import server

    return server.run(config)


def _begin_device_query(config: Config) -> None:
    """Let a child process list the engine's devices during the imports, because that takes 0.1 s."""
    from llb.engine.builds.overlays import overlay_store
    from llb.hardware import begin_device_query, engine_command, engine_environment, installed_version

    build = overlay_store(config.home, installed_version()).select()
    begin_device_query(engine_command("--devices"), engine_environment(os.environ, build))


if __name__ == "__main__":
    sys.exit(main())
