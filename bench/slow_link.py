"""Slow link: two network namespaces with a TUN device each, and a process that carries their packets late and
loses some. For kernels without netem.

    unshare --net python -m bench.slow_link --delay 0.04 --loss 0.01
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER_ADDRESS, CLIENT_ADDRESS = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000
# linux/if_tun.h: TUNSETIFF; IFF_TUN | IFF_NO_PI.
TUNSETIFF, TUN_FLAGS = 0x400454CA, 0x1001
MAX_PACKET_BYTES = 65_536


@contextmanager
def open_link(delay_s: float, loss: float, congestion: str) -> Iterator[tuple[list[str], list[str]]]:
    """Run the link; yields the commands that start a program at the server's end and at the client's."""
    command = ["unshare", "--net", sys.executable, "-m", "bench.slow_link"]
    process = subprocess.Popen(
        [*command, "--delay", str(delay_s), "--loss", str(loss), "--congestion", congestion],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        ends = process.stdout.readline().split()
        if len(ends) != 2:
            raise RuntimeError("the link did not start: it needs root and /dev/net/tun")
        server, client = (["nsenter", f"--net={end}"] for end in ends)
        yield server, client
    finally:
        process.kill()
        process.wait()


def open_tun(address: str) -> int:
    """Open a TUN device in the present namespace and give it an address."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"link", TUN_FLAGS))
    for arguments in (
        ["addr", "add", f"{address}/24", "dev", "link"],
        ["link", "set", "dev", "link", "txqueuelen", "10000", "up"],
        ["link", "set", "lo", "up"],
    ):
        subprocess.run(["ip", *arguments], check=True)  # noqa: S607
    return fd


def carry_packets(server_fd: int, client_fd: int, delay_s: float, loss: float) -> None:
    """Carry packets in both directions, `delay_s` late; what the server sends is lost with chance `loss`."""
    chance = random.Random(1)
    other = {server_fd: client_fd, client_fd: server_fd}
    late: list[tuple[float, int, int, bytes]] = []
    number = 0
    parent = os.getppid()
    while os.getppid() == parent:
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, fd, packet = heapq.heappop(late)
            os.write(fd, packet)
        wait_s = min(0.5, late[0][0] - now) if late else 0.5
        for fd in select.select([server_fd, client_fd], [], [], max(0.0, wait_s))[0]:
            due = time.monotonic() + delay_s
            for _ in range(64):
                try:
                    packet = os.read(fd, MAX_PACKET_BYTES)
                except BlockingIOError:
                    break
                number += 1
                if fd != server_fd or chance.random() >= loss:
                    heapq.heappush(late, (due, number, other[fd], packet))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_link")
    parser.add_argument("--delay", type=float, default=0.04, help="seconds in each direction")
    parser.add_argument("--loss", type=float, default=0.01, help="share of the server's packets")
    parser.add_argument("--congestion", default="cubic", help="congestion control of the server")
    options = parser.parse_args()
    server_fd = open_tun(SERVER_ADDRESS)
    route = ["ip", "route", "replace", f"{CLIENT_ADDRESS}/32", "dev", "link", "congctl", options.congestion]
    subprocess.run(route, check=True)
    # Keeps the namespace when this process leaves it.
    namespace_fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        sys.exit("a second network namespace could not be made")
    client_fd = open_tun(CLIENT_ADDRESS)
    process = f"/proc/{os.getpid()}"
    print(f"{process}/fd/{namespace_fd} {process}/ns/net", flush=True)
    carry_packets(server_fd, client_fd, options.delay, options.loss)


if __name__ == "__main__":
    main()
