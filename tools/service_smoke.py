"""Smoke test of `llb service`: systemd boots in namespaces of this host, with the unit that llb writes.

    python -m tools.service_smoke ROOT [--file dist/llb.pyz]

ROOT is what `python -m tools.container_smoke ROOT` has left: a root file system of Debian with llb in
/opt/llb. The test installs systemd there with apt, and boots it as process 1 of namespaces of its own; only
the network is that of this host. Then: install the service, pull a model from the Hub stand-in, ask it,
reload, kill -9, stop while an answer runs, boot again, ask again, uninstall. Needs root, and the packages of
the tests. With `--file` the single file is installed as the service, and its commands are used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.container_smoke import CHROOT, PROJECT, UNSHARE

NSENTER = "/usr/bin/nsenter"
MODEL = "smollm2-135m"
FILE_PLACE = "opt/llb-file/llb.pyz"
DEADLINE_S = 120.0
PATHS = {"PATH": "/opt/llb/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# As a container manager prepares the file systems of its process 1.
BOOT = """
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    chroot "$1" /lib/systemd/systemd --system --log-target=null --unit=multi-user.target
"""


class BootedHost:
    """A systemd that runs in namespaces of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--propagation", "private"]
        self._process = subprocess.Popen(
            [UNSHARE, *namespaces, "--uts", "--ipc", "--cgroup", "/bin/sh", "-ec", BOOT, "boot", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_for("a process 1", lambda: children.read_text().split())
        self._init_pid = children.read_text().split()[0]
        wait_for("systemd", lambda: "running" in self.run("systemctl", "is-system-running", check=False))

    def run(self, *command: str, check: bool = True, user: str | None = None) -> str:
        """Run a command inside; returns its output. Raises `SystemExit` if it fails, unless not `check`."""
        process = self.start(*command, user=user)
        output, errors = process.communicate(timeout=DEADLINE_S)
        if check and process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed: {output}{errors}")
        return output

    def start(self, *command: str, user: str | None = None) -> subprocess.Popen[str]:
        """Start a command inside, as root or as `user`."""
        inside = [NSENTER, "--target", self._init_pid, "--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        as_user = [] if user is None else [f"--userspec={user}:{user}"]
        own = {} if user is None else {"LLB_HOME": "/var/lib/llb", "HOME": "/var/lib/llb"}
        return subprocess.Popen(
            [*inside, CHROOT, *as_user, str(self._root), *command],
            env={**PATHS, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def power_off(self) -> None:
        """End everything inside at once, as a power failure does."""
        self._process.kill()
        self._process.wait()


def wait_for(what: str, condition: Callable[[], object]) -> float:
    """Wait until `condition` holds; returns the seconds that it took. Raises `SystemExit`."""
    started_at = time.monotonic()
    while not condition():
        if time.monotonic() - started_at > DEADLINE_S:
            raise SystemExit(f"{what} did not come")
        time.sleep(0.1)
    return time.monotonic() - started_at


@contextmanager
def booted(root: Path) -> Iterator[BootedHost]:
    host = BootedHost(root)
    try:
        yield host
    finally:
        host.power_off()


@contextmanager
def hub_stand_in(port: int) -> Iterator[str]:
    """The Hub of the tests, with the model; yields its address."""
    words = ["--port", str(port), "--smollm2", "--catalog", "supported_models.json"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.hub", *words],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as hub:
        try:
            wait_for("the Hub stand-in", lambda: _is_listening(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            hub.terminate()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def prepare(root: Path, hub_url: str) -> None:
    """Install systemd in ROOT, put the present program there, and point the service to the Hub stand-in."""
    if not (root / "lib/systemd/systemd").exists():
        script = (
            "apt-get update -q && apt-get install -y -q --no-install-recommends systemd systemd-sysv dbus"
        )
        environment = {**PATHS, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([CHROOT, str(root), "/bin/sh", "-ec", script], env=environment, check=True)
    [package] = (root / "opt/llb/lib").glob("python3*/site-packages/llb")
    shutil.copytree(PROJECT / "llb", package, dirs_exist_ok=True)
    environment_file = root / "etc/llb/llb.env"
    environment_file.parent.mkdir(exist_ok=True)
    environment_file.write_text(f"HF_ENDPOINT={hub_url}\n")
    shutil.rmtree(root / "var/lib/llb", ignore_errors=True)


def check_service(root: Path, port: int, program: list[str]) -> None:
    """Go through the life of the service. Raises `SystemExit`."""

    def is_active(host: BootedHost) -> bool:
        return host.run("systemctl", "is-active", "llb", check=False).strip() == "active"

    def ask(host: BootedHost) -> None:
        host.run(*program, "chat", MODEL, "Hello", "--max-tokens", "8", user="llb")

    with booted(root) as host:
        print(host.run(*program, "service", "install", "--port", str(port)).splitlines()[0])
        host.run(*program, "pull", MODEL, user="llb")
        ask(host)
        host.run("systemctl", "reload", "llb")
        wait_for(
            "the reload",
            lambda: "catalogue was read again" in host.run("journalctl", "-u", "llb", check=False),
        )
        host.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "llb")
        wait_for("the restart", lambda: not is_active(host))
        print(f"kill -9: active again after {wait_for('the restart', lambda: is_active(host)):.1f} s")
        ask(host)
        words = [*program, "chat", MODEL, "Tell a long story.", "--max-tokens", "120"]
        with host.start(*words, user="llb") as chat:
            # The first character has come.
            answer = "" if chat.stdout is None else chat.stdout.read(1)
            host.run("systemctl", "stop", "llb")
            answer += chat.communicate()[0]
        if chat.returncode != 0 or len(answer) < 100:
            raise SystemExit(f"the answer was cut off: {answer}")
        print("stop: the running answer ended first")
        result = host.run("systemctl", "show", "llb", "--property=Result", "--value").strip()
        if result != "success":
            raise SystemExit(f"the service ended with {result}")
    started_at = time.monotonic()
    with booted(root) as host:
        wait_for("the service", lambda: is_active(host))
        print(f"boot: active after {time.monotonic() - started_at:.1f} s")
        ask(host)
        print(host.run("systemd-analyze", "security", "--no-pager", "llb").splitlines()[-1])
        print(host.run(*program, "service", "uninstall").strip())


def main() -> int:
    parser = argparse.ArgumentParser(description="Smoke test of `llb service` with a real systemd.")
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--port", type=int, default=18_081)
    parser.add_argument("--file", type=Path, default=None, metavar="llb.pyz")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("namespaces and chroot need root")
    root = options.root.resolve()
    program = ["llb"]
    if options.file is not None:
        (root / FILE_PLACE).parent.mkdir(exist_ok=True)
        shutil.copy2(options.file, root / FILE_PLACE)
        program = ["python3", f"/{FILE_PLACE}"]
    with hub_stand_in(options.port + 1) as hub_url:
        prepare(root, hub_url)
        check_service(root, options.port, program)
    print("The service works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
