"""`python -m …` as a process of its own without the half second that its imports take.

    with prefork.Popen([sys.executable, "-m", "llb", "models"], env=…, stdout=PIPE) as process: ...

A template process (`python -m tests.prefork`, one for all workers of the suite) has imported what llb and the
tests' programs import. It forks for each command: the child gets the environment, directory, files, session,
terminal, network namespace and cores of that command, then runs the module as `python -m` does. It is a real
process: with its own id, signals, exit status and memory.

Only where `enable()` was called (`tests/conftest.py`); benchmarks start every process from nothing. A command
line of another form also starts from nothing, and so does every engine that the product starts. Where the
environment names an engine worker of the tests (`ENGINE_VARIABLE`), the command starts that one, and where it
has a factor of time (`TIME_SCALE_VARIABLE`), its timeouts are divided by it.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import termios
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
# Script of an engine worker that a command under test starts in place of the one with llama.cpp.
ENGINE_VARIABLE = "TESTS_ENGINE_WORKER"
# Factor of the intervals by which a command under test notices silence (`speedups.scale_intervals`).
TIME_SCALE_VARIABLE = "TESTS_TIME_SCALE"
MESSAGE_BYTES = 1 << 18
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NETNS_DIRECTORY = Path("/run/netns")

# What these import in turn is ready too. Nothing that reads the environment when it is imported, starts a
# thread or loads llama.cpp: a child would inherit that.
PRELOADED_MODULES = (
    "llb.cli.main",
    "llb.cli.accounts",
    "llb.cli.chat.command",
    "llb.cli.host.database",
    "llb.cli.host.doctor",
    "llb.cli.join",
    "llb.cli.models",
    "llb.cli.nodes",
    "llb.cli.options",
    "llb.cli.pull",
    "llb.server",
    "rich.console",
    "rich.progress",
    "rich.table",
    "tests.hub",
    "tests.lab.clients",
    "uvloop",
    "websockets.sync.client",
)


# --- the side of the tests ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _PythonCommand:
    """A command line that the template can run."""

    module: str
    arguments: list[str]
    unbuffered: bool
    network_namespace: str | None
    cpu_cores: list[int] | None

    @classmethod
    def parse(cls, command: Sequence[str]) -> _PythonCommand | None:
        rest = [*command]
        network = cores = None
        if rest[:3] == ["ip", "netns", "exec"]:
            network, rest = rest[3], rest[4:]
        if rest[:2] == ["taskset", "--cpu-list"] and rest[2].isdecimal():
            cores, rest = [int(rest[2])], rest[3:]
        if rest[:1] != [sys.executable]:
            return None
        rest = rest[1:]
        if unbuffered := rest[:1] == ["-u"]:
            rest = rest[1:]
        if rest[:1] != ["-m"]:
            return None
        return cls(rest[1], rest[2:], unbuffered, network, cores)


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`.

    `terminal`: standard input becomes the controlling terminal of a session of its own.
    """

    def __init__(self, command: Sequence[str], *, terminal: bool = False, **options: Any) -> None:
        self._terminal = terminal
        self._python_command = _PythonCommand.parse(command) if _is_enabled else None
        self._status_socket: socket.socket | None = None
        if self._python_command is None and terminal:
            inner = (
                "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1],"
                " sys.argv[1:])"
            )
            command, options["start_new_session"] = [sys.executable, "-c", inner, *command], True
        super().__init__(command, **options)

    def _execute_child(self, *arguments: Any) -> None:
        if self._python_command is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        cwd, env, files, new_session = arguments[5], arguments[6], arguments[10:16], arguments[21]
        form = self._python_command
        order = {
            "module": form.module,
            "arguments": form.arguments,
            "unbuffered": form.unbuffered,
            "network": form.network_namespace,
            "cores": form.cpu_cores,
            "terminal": self._terminal,
            "session": self._terminal or bool(new_session),
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        # The child's ends; -1 is a file that it shares with us.
        given = [own if file == -1 else file for own, file in enumerate((files[0], files[3], files[5]))]
        self.pid, self._status_socket = _get_template().fork(order, given)
        self._child_created = True
        self._close_pipe_fds(*files)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self._status_socket is None:
            return super()._internal_poll(*_, **__)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            self._status_socket.setblocking(False)
            with suppress(BlockingIOError):
                self._read_exit_status()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._status_socket is None:
            return super()._wait(timeout)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            self._status_socket.settimeout(timeout)
            try:
                self._read_exit_status()
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        return self.returncode

    def _read_exit_status(self) -> None:
        assert self._status_socket is not None
        said = self._status_socket.recv(64)
        self._status_socket.close()
        self.returncode = os.waitstatus_to_exitcode(int(said)) if said else -signal.SIGKILL


def run(
    command: Sequence[str], *, given: str | None = None, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with `capture_output` and `text`; `given` is what standard input says."""
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    with Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            out, err = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


_is_enabled = False


def enable() -> None:
    global _is_enabled
    _is_enabled = sys.platform.startswith("linux")


def start() -> None:
    """Start the template, which else starts with the first process: those forked from this one share it."""
    if _is_enabled:
        _get_template()


class _TemplateProcess:
    """The template process and the way to it.

    Several processes may use it: a request is one message, and brings the socket of its reply.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.prefork", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)} | _owner_environment(),
                start_new_session=True,  # Ctrl-C at the tests' terminal is the tests' to pass on
            )
        atexit.register(self.close)

    def fork(self, request: dict[str, Any], standard_fds: list[int]) -> tuple[int, socket.socket]:
        """The id of the new process, and a socket that says its wait status when it has ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            sent = array.array("i", [theirs.fileno(), *standard_fds])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent.tobytes())]
            with self._lock:
                self._socket.sendmsg([json.dumps(request).encode("utf-8", "surrogateescape")], rights)
        said = ours.recv(64)
        if not said:
            raise RuntimeError("the template process has ended")
        return int(said), ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def _owner_environment() -> dict[str, str]:
    from tests.lab import owner

    return {owner.OWNER_VARIABLE: owner.owner_mark()}


_templates: list[_TemplateProcess] = []
_templates_lock = threading.Lock()


def _get_template() -> _TemplateProcess:
    with _templates_lock:
        if not _templates:
            _templates.append(_TemplateProcess())
        return _templates[0]


# --- the template ------------------------------------------------------------------------------------


def serve_forks(control_socket: socket.socket) -> None:
    """Fork for each order until the tests have gone."""
    control_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MESSAGE_BYTES)
    for module in PRELOADED_MODULES:
        importlib.import_module(module)
    speedups = importlib.import_module("tests.speedups")
    speedups.prepare_children()
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    ready = selectors.DefaultSelector()
    ready.register(control_socket, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is not control_socket:
                pid, reply = key.data
                ready.unregister(key.fd)
                os.close(key.fd)
                with suppress(OSError):  # the tests may have forgotten it
                    reply.send(b"%d" % os.waitpid(pid, 0)[1])
                reply.close()
                continue
            message, files = _receive_request(control_socket)
            if not message:
                return
            reply = socket.socket(fileno=files[0])
            pid = os.fork()
            if pid == 0:
                _run_child(json.loads(message), files[1:])
            for file in files[1:]:
                os.close(file)
            ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, reply))
            reply.send(b"%d" % pid)


def _receive_request(control_socket: socket.socket) -> tuple[bytes, list[int]]:
    message, rights, _, _ = control_socket.recvmsg(
        MESSAGE_BYTES, socket.CMSG_SPACE(4 * array.array("i").itemsize)
    )
    files = array.array("i")
    for _, _, data in rights:
        files.frombytes(data)
    return message, [*files]


def _run_child(request: dict[str, Any], standard_fds: list[int]) -> NoReturn:
    """Become the process that was ordered, and end as it does."""
    status = 1
    try:
        for number, file in enumerate(standard_fds):
            os.dup2(file, number)
        os.closerange(3, 4096)
        if request["session"]:
            os.setsid()
        if request["terminal"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if request["network"] is not None:
            _enter_network_namespace(_NETNS_DIRECTORY / request["network"])
        if request["cores"] is not None:
            os.sched_setaffinity(0, request["cores"])
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        if engine := os.environ.get(ENGINE_VARIABLE):
            importlib.import_module("tests.speedups").use_engine(engine)
        if factor := os.environ.get(TIME_SCALE_VARIABLE):
            importlib.import_module("tests.speedups").scale_intervals(float(factor))
        gc.unfreeze()
        _open_standard_files(unbuffered=request["unbuffered"])
        sys.argv = [request["module"], *request["arguments"]]
        status = _run_module(request["module"])
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with suppress(BrokenPipeError):
            sys.stdout.flush()
    except BaseException:
        # Printed as a new interpreter would; the forked process must not return into the parent's code.
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _enter_network_namespace(namespace_path: Path) -> None:
    fd = os.open(namespace_path, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace_path}")
    os.close(fd)


def _open_standard_files(*, unbuffered: bool) -> None:
    sys.stdin = open(0, encoding="utf-8", errors="strict", closefd=False)  # noqa: SIM115
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        lines = 1 if os.isatty(number) or name == "stderr" else -1
        stream = open(number, "w", lines, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        if unbuffered:
            stream.reconfigure(write_through=True)
        setattr(sys, name, stream)


def _run_module(module: str) -> int:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        # Printed, with the exit status, as a new interpreter would.
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    # A shell may have started the tests with ignored signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve_forks(socket.socket(fileno=int(sys.argv[1])))
