"""`python -m llb` whose engines are the mock: `python -m bench.gateway.appliance MOCK CORE FLAGS…`."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import Any

from llb import server
from llb.cli import main as command_line
from llb.engine.pool import EnginePool

if __name__ == "__main__":
    mock, core, *flags = sys.argv[1:]
    command = (sys.executable, "-m", "bench.gateway.worker", mock, core)
    local_node: Any = import_module("llb.parts.local_node")
    local_node.EnginePool = partial(EnginePool, command=command)
    sys.exit(command_line.main(flags, serve=server.run))
