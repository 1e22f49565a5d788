"""Entry point: missing and full standard streams."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llb.base import runfile
from tests.processes import ROOT, clean_environment, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_the_server_runs_without_working_standard_streams(tmp_path: Path, redirections: str) -> None:
    home = tmp_path / "home"
    command = f"exec {shlex.quote(sys.executable)} -m llb --port 0 --host 127.0.0.1 {redirections}"
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env=clean_environment(LLB_HOME=str(home)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or runfile.find_running_server(home) is not None)
        running = runfile.find_running_server(home)
        assert running is not None, process.returncode
        assert httpx.get(f"{running.url}/health", trust_env=False, timeout=60).status_code == 200
        streams = [str(Path(f"/proc/{running.pid}/fd/{fd}").readlink()) for fd in range(3)]
        assert all(target.startswith("/dev/") for target in streams), streams
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("redirection", [">&-", "<&-", ">/dev/full"])
def test_a_command_fails_at_most_with_a_sentence(tmp_path: Path, redirection: str) -> None:
    ran = subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.quote(sys.executable)} -m llb version {redirection}"],
        env=clean_environment(LLB_HOME=str(tmp_path)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if redirection == ">/dev/full":
        assert (ran.returncode, ran.stderr) == (1, "No space left on device.\n")
    else:
        assert (ran.returncode, ran.stderr) == (0, "")
