"""Stand-in as a separate process, for benchmarks and remote fault injection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import prefork

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
ROOT = Path(__file__).parents[2]


class HubProcess:
    """Runs `python -m tests.hub --port 0 …` within a `with` block."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.url = ""

    def __enter__(self) -> HubProcess:
        self._process = prefork.Popen(
            self._build_command(),
            env=self._build_environment(),
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("HF_ENDPOINT="):
            self._process.kill()
            raise RuntimeError(f"the Hub stand-in did not start: {line!r}")
        self.url = line.strip().removeprefix("HF_ENDPOINT=")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # a process that hangs fails this test, and not those after it
            self._process.communicate()
            raise

    def _build_command(self) -> list[str]:
        return [sys.executable, "-m", "tests.hub", "--port", "0", "--quiet", *self._arguments]

    def _build_environment(self) -> dict[str, str]:
        return dict(os.environ)

    def control(self, **order: Any) -> dict[str, Any]:
        """Send a control request (see `HubStandIn`); returns the active faults and the counters."""
        data = json.dumps(order).encode()
        with urllib.request.urlopen(f"{self.url}/_control", data=data, timeout=START_TIMEOUT_S) as answer:  # noqa: S310
            result: dict[str, Any] = json.load(answer)
        return result
