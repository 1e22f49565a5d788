"""Engine sandbox: what Landlock and seccomp deny."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from llb.engine import sandbox

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
print("supported", sandbox.apply_seccomp())
print("after", connect(port))
go.set(); thread.join()
print("thread", *answers)
accepted, _ = listening.accept()
client.sendall(b"x")
print("open", accepted.recv(1))
socket.socket(socket.AF_UNIX).close()
"""
RIGHTS = """
import ctypes, os, subprocess, sys
from pathlib import Path
from llb.engine import sandbox

folder, allowed = Path(sys.argv[1]), Path(sys.argv[2])
kept = open(folder / "open", "w")
print("supported", sandbox.apply_landlock([str(allowed), "/dev", "/not/there"]))
def attempt(what, act):
    try:
        act()
    except OSError as error:
        print(what, error.strerror)
    else:
        print(what, "done")
attempt("read", lambda: (folder / "there").read_text())
attempt("write", lambda: (folder / "there").write_text("x"))
attempt("make", lambda: (folder / "new").write_text("x"))
attempt("directory", lambda: (folder / "new").mkdir())
attempt("remove", lambda: (folder / "there").unlink())
attempt("rename", lambda: (folder / "there").rename(folder / "elsewhere"))
attempt("allowed", lambda: (allowed / "new").write_text("x"))
attempt("device", lambda: open("/dev/null", "w").close())
attempt("open before", lambda: (kept.write("x"), kept.flush()))
attempt("run", lambda: subprocess.run(["/bin/true"], check=True))
print("supported", sandbox.apply_seccomp())
attempt("run again", lambda: subprocess.run(["/bin/true"], check=True))
libc = ctypes.CDLL(None, use_errno=True)
def look_into_the_parent():
    if libc.ptrace(16, os.getppid(), None, None):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt("ptrace", look_into_the_parent)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has Landlock and seccomp")
def test_an_engine_changes_no_file_runs_no_program_and_looks_into_nobody(tmp_path: Path) -> None:
    folder, allowed = tmp_path / "folder", tmp_path / "allowed"
    folder.mkdir()
    allowed.mkdir()
    (folder / "there").write_text("text")
    done = subprocess.run(
        [sys.executable, "-c", RIGHTS, str(folder), str(allowed)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    told = done.stdout.splitlines()
    if told[0] == "supported False":
        pytest.skip("this kernel has no Landlock")
    assert told == [
        "supported True",
        "read done",
        "write Permission denied",
        "make Permission denied",
        "directory Permission denied",
        "remove Permission denied",
        "rename Permission denied",
        "allowed done",
        "device done",
        "open before done",
        "run Permission denied",
        "supported True",
        "run again Permission denied",
        "ptrace Permission denied",
    ]
    assert (folder / "there").read_text() == "text"
    assert (folder / "open").read_text() == "x"


def test_every_jump_of_the_filter_leads_somewhere() -> None:
    for machine in sandbox._SYSCALL_TABLES.values():
        program = sandbox._build_bpf_filter(machine)
        steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
        refuse = len(steps) - 1
        assert steps[refuse][0] == sandbox._RETURN
        assert steps[refuse][3] >> 16 == sandbox._RET_ERRNO >> 16
        refused = {
            value
            for at, (code, when_true, _, value) in enumerate(steps)
            if code == sandbox._JUMP_IF_EQUAL and at + 1 + when_true == refuse
        }
        assert refused == {*machine.denied, socket.AF_INET, socket.AF_INET6}
        for at, (code, when_true, when_false, _) in enumerate(steps):
            if code in (sandbox._JUMP_IF_EQUAL, sandbox._JUMP_IF_AT_LEAST):
                assert max(at + 1 + when_true, at + 1 + when_false) <= refuse
