"""A process with few descriptors, and clients who hold connections without an account."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.processes import LlbProcess

DESCRIPTORS = 256
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class FewDescriptors(LlbProcess):
    """A process that may open `DESCRIPTORS` descriptors."""

    def _build_command(self) -> list[str]:
        program, *arguments = super()._build_command()
        return [program, "-c", LIMITED, str(DESCRIPTORS), *arguments]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_slow_connections_do_not_take_all_descriptors(tmp_path: Path) -> None:
    """Heads and bodies that never end, more than the process has descriptors."""
    beginnings = (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{",
    )
    with FewDescriptors(tmp_path / "home") as process, ExitStack() as stack:
        port = int(process.url.rpartition(":")[2])
        for number in range(DESCRIPTORS + 50):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            held.sendall(beginnings[number % 2])
        for _ in range(3):
            assert httpx.get(f"{process.url}/health", trust_env=False, timeout=60).status_code == 200
        nodes = process.http.get("/api/nodes").json()["nodes"]
        assert [node["name"] for node in nodes]
        assert "Too many open files" not in process.log.read_text()
