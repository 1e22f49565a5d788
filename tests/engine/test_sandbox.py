from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import socket, sys, threading
from llb.engine import sandbox

def connect(port):
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return "connected"
    except PermissionError:
        return "refused"

listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
go, answers = threading.Event(), []
def elsewhere():
    go.wait()
    answers.append(connect(port))
thread = threading.Thread(target=elsewhere)
thread.start()
client = socket.create_connection(("127.0.0.1", port))
print("before", connect(port))
print("supported", sandbox.refuse_new_connections())
print("after", connect(port))
go.set(); thread.join()
print("thread", *answers)
accepted, _ = listening.accept()
client.sendall(b"x")
print("open", accepted.recv(1))
socket.socket(socket.AF_UNIX).close()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has seccomp")
def test_no_thread_can_connect_and_open_connections_go_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "before connected",
        "supported True",
        "after refused",
        "thread refused",
        "open b'x'",
    ]
