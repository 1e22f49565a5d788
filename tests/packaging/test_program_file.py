"""llb.pyz as it is released, on a host that has Python and nothing else: from its download to a restart.

`tools.container_smoke` and `tools.service_smoke` go through the same in a root file system of their own, with
a real systemd.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.onefile import MODEL, SHORT, Account, stop, use_file, wait_until_serving
from tests.hub.process import HubProcess
from tests.ports import free_port
from tests.processes import ROOT
from tools.onefile.__main__ import MINORS, PROGRAM_NAME

# Another user has to be able to run it: not the Python of the tests.
PYTHON = Path("/usr/bin/python3")


def python_minor() -> int | None:
    """The 11 of Python 3.11; None where the system has no Python that the file is for."""
    if not PYTHON.exists():
        return None
    version = subprocess.check_output([PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], text=True)
    major, minor = map(int, version.split())
    return minor if major == 3 and minor in MINORS else None


@pytest.mark.timeout(300)
def test_from_the_download_to_a_restart() -> None:
    """An unprivileged user (as root: another one) with an empty environment has the file and no package."""
    minor = python_minor()
    if minor is None or sys.platform != "linux":
        pytest.skip("needs Linux with a Python of the system for which llb.pyz has packages")
    with (
        # Not in pytest's directory, which no other user can pass through.
        tempfile.TemporaryDirectory(prefix="llb-program-file-") as name,
        HubProcess("--smollm2", "--catalog", str(ROOT / "supported_models.json")) as hub,
    ):
        folder = Path(name)
        command = [
            sys.executable,
            "-m",
            # Its packages are stored. `test_onefile.py` unpacks compressed ones.
            "tests.packaging.stored_xz",
            "--python",
            f"3.{minor}",
            "--out",
            str(folder / "dist"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        account = Account(folder, folder / "dist" / PROGRAM_NAME, PYTHON, hub.url)
        use_file(account)
        port = free_port()
        server = account.start("--port", str(port), log=account.folder / "again.log")
        try:
            wait_until_serving(server, port)
            assert MODEL in account.run("models", "--pulled")
            assert account.run("chat", MODEL, "Say one word.", *SHORT).strip()
            stop(server)
        finally:
            server.kill()
            server.wait()
