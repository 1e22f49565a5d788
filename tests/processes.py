"""`python -m llb` as a separate process: for tests of whole lifecycles and for benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from llb.base import runfile
from llb.base.runfile import RunInfo
from llb.security import tls_trust
from tests import prefork

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 20.0
ROOT = Path(__file__).parent.parent


def clean_environment(**extra: str) -> dict[str, str]:
    """Environment of this process with `extra`, without variables that change the product's behaviour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LLB_", "HF_")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def wait_until(condition: Callable[[], object], deadline_s: float = START_DEADLINE_S) -> None:
    """Poll until `condition` holds, for state without an event."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class LlbProcess:
    """A running balancer; `http` is signed with the local token of its home."""

    def __init__(self, home: Path, *flags: str, **extra_environment: str) -> None:
        self.home = home
        self._flags = flags
        # An abandoned answer must not delay the end of the test.
        environment = {"LLB_HOME": str(home), "LLB_DRAIN_TIMEOUT": "5s", **extra_environment}
        self._environment = clean_environment(**environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> LlbProcess:
        """Start it; returns when it serves."""
        self.log = self.home.with_name(self.home.name + ".log")
        with self.log.open("ab") as log:
            self._process = prefork.Popen(
                self._build_command(),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while (info := runfile.find_running_server(self.home)) is None:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)
        self._connect(info)
        return self

    def _build_command(self) -> list[str]:
        return [sys.executable, "-m", "llb", "--port", "0", *self._flags]

    def _create_transport(self, info: RunInfo, /) -> httpx.BaseTransport:
        return httpx.HTTPTransport(
            trust_env=False, verify=tls_trust.get_client_context(info.anchor) if info.tls else True
        )

    def _connect(self, info: RunInfo) -> None:
        self.pid = info.pid
        self.url = info.url
        self.http = httpx.Client(
            base_url=info.url,
            headers={"Authorization": f"Bearer {info.token}"},
            timeout=60,
            trust_env=False,
            transport=self._create_transport(info),
        )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL, as the out-of-memory killer does."""
        self._terminate(signal.SIGKILL)

    def stop(self) -> int:
        """Send SIGTERM; returns the exit status."""
        return self._terminate(signal.SIGTERM)

    def _terminate(self, signal_number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal_number)
        self.http.close()
        return process.wait(STOP_DEADLINE_S)

    def __enter__(self) -> LlbProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # --- what is often asked ------------------------------------------------------------------------

    def get_model(self, model_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/api/models/{model_id}").raise_for_status().json())

    def register_model(self, model_id: str) -> httpx.Response:
        return self.http.post("/api/models/register", json={"model_id": model_id})

    def wait_for_status(self, model_id: str, status: str, deadline_s: float = 60.0) -> dict[str, Any]:
        deadline = time.monotonic() + deadline_s
        while (model := self.get_model(model_id))["status"] != status:
            assert time.monotonic() < deadline, json.dumps(model)
            time.sleep(0.02)
        return model
