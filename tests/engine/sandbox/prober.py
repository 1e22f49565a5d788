"""Program that restricts itself as an engine does, and then tries what docs/security.md says it cannot do.

It prints, as JSON, what was in effect and the outcome of each attempt: "refused", "done", or another error.
Arguments: the directory of the test, a user id to become first (0: stay), and `gpu` for an engine with GPU.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import mmap
import os
import platform
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from llb.engine.sandbox import restrictions

# Below the home: of an additional build, which the environment names.
BUILD_FILE = "engines/vulkan-1/module.py"
REFUSED = (1, 13, 38)  # EPERM, EACCES, ENOSYS
ARM = platform.machine() == "aarch64"
libc = ctypes.CDLL(None, use_errno=True)
Attempt = Callable[[], object]


def call(x86: int | None, arm: int | None, *arguments: object) -> int:
    """Make a system call by its number; raises OSError."""
    number = arm if ARM else x86
    if number is None:
        raise OSError(38, "no such call here")
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def outcome(attempt: Attempt) -> str:
    try:
        attempt()
    except OSError as error:
        return "refused" if error.errno in REFUSED else f"{error.strerror}"
    except Exception as error:  # another error is not a refusal
        return repr(error)
    return "done"


def text(value: str | Path) -> ctypes.c_char_p:
    return ctypes.c_char_p(str(value).encode())


def fork_child() -> None:
    if os.fork() == 0:
        os._exit(0)


class Prober:
    def __init__(self, directory: Path) -> None:
        self.model = directory / "models" / "m.gguf"
        self.other_model = directory / "models" / "other.gguf"
        self.secret = directory / "home" / "run.json"
        self.home = self.secret.parent
        self.open_file = self.model.open("rb")
        self.outside = socket.create_server(("127.0.0.1", 0))
        self.outside_udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.abstract = f"\0llb-test-{os.getpid()}"
        self.outside_unix = socket.socket(socket.AF_UNIX)
        self.outside_unix.bind(self.abstract)
        self.outside_unix.listen()
        self.pipe = os.pipe()
        self.victim = self.start_victim()

    def start_victim(self) -> int:
        """Start a process of the same user."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        self.victim_pipe = writer
        return pid

    # --- claims ----------------------------------------------------------------------------------

    def network(self) -> dict[str, Attempt]:
        port = self.outside.getsockname()[1]
        families = {
            "an IPv6 socket": (socket.AF_INET6, socket.SOCK_STREAM, 0),
            "a UDP socket": (socket.AF_INET, socket.SOCK_DGRAM, 0),
            "a raw socket": (socket.AF_INET, socket.SOCK_RAW, 1),
            "a ping socket": (socket.AF_INET, socket.SOCK_DGRAM, 1),
            "a netlink socket": (16, socket.SOCK_RAW, 0),
            "a packet socket": (17, socket.SOCK_RAW, 0),
            "an AF_ALG socket": (38, socket.SOCK_SEQPACKET, 0),
            "an AF_VSOCK socket": (40, socket.SOCK_STREAM, 0),
            "an AF_XDP socket": (44, socket.SOCK_RAW, 0),
            "a Unix socket": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
            "a Unix datagram socket": (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
        }
        attempts: dict[str, Attempt] = {
            name: functools.partial(call, 41, 198, *kind) for name, kind in families.items()
        }
        ring = ctypes.create_string_buffer(120)
        return attempts | {
            "a TCP connection": lambda: socket.create_connection(("127.0.0.1", port)),
            "a pair of Unix sockets": socket.socketpair,
            "io_uring_setup": lambda: call(425, 425, 1, ring),
            "io_uring_enter": lambda: call(426, 426, 0, 0, 0, 0, None, 0),
            "io_uring_register": lambda: call(427, 427, 0, 0, None, 0),
        }

    def existing_sockets(self, spare: socket.socket, accepted: socket.socket) -> dict[str, Attempt]:
        """Attempts to use sockets of the server for a connection of another kind."""
        address = self.outside.getsockname()
        packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H", address[1]) + bytes((127, 0, 0, 1))
        packed += bytes(8)
        fastopen = 0x20000000
        return {
            "connecting a spare socket": lambda: spare.connect(address),
            "connecting a spare socket with its first data": lambda: spare.sendto(b"x", fastopen, address),
            "the same with sendmsg": lambda: spare.sendmsg([b"x"], [], fastopen, address),
            "the same with sendmmsg": lambda: call(307, 269, spare.fileno(), None, 0, fastopen),
            "disconnecting an accepted socket": lambda: call(
                42, 203, accepted.fileno(), ctypes.create_string_buffer(bytes(16)), 16
            ),
            "connecting an accepted socket elsewhere": lambda: call(
                42, 203, accepted.fileno(), ctypes.create_string_buffer(packed), 16
            ),
            "listening at another port": spare.listen,
            "binding another port": lambda: spare.bind(("127.0.0.1", 0)),
        }

    def files(self) -> dict[str, Attempt]:
        model, fd, here = self.model, self.open_file.fileno(), -100
        times = None
        new = self.model.parent / "new"
        return {
            "reading a file of the home": self.secret.read_bytes,
            "reading beside the build of llama.cpp": (self.home / "engines" / "use").read_bytes,
            "listing the home": lambda: list(self.home.iterdir()),
            "reading another model": self.other_model.read_bytes,
            "listing the models": lambda: list(model.parent.iterdir()),
            "reading /etc/passwd": Path("/etc/passwd").read_bytes,
            "listing /": lambda: list(Path("/").iterdir()),
            "listing the processes": lambda: list(Path("/proc").iterdir()),
            "reading through /proc/self/root": Path(f"/proc/self/root{self.secret}").read_bytes,
            "writing the model": lambda: model.open("r+b"),
            "truncating the model": lambda: call(76, 45, text(model), 0),
            "truncating an open file": lambda: call(77, 46, fd, 0),
            "making a file": lambda: new.write_bytes(b"x"),
            "making a file with creat": lambda: call(85, None, text(new), 0o600),
            "making a file with openat2": lambda: call(
                437,
                437,
                here,
                text(new),
                ctypes.create_string_buffer(struct.pack("=QQQ", 0o101, 0o600, 0)),
                24,
            ),
            "making a nameless file": lambda: os.open(model.parent, os.O_TMPFILE | os.O_RDWR),
            "making a directory": new.mkdir,
            "making a pipe with a name": lambda: os.mkfifo(new),
            "removing the model": model.unlink,
            "renaming the model": lambda: model.rename(new),
            "a hard link": lambda: new.hardlink_to(model),
            "a symbolic link": lambda: new.symlink_to(model),
            "a file in /dev/shm": lambda: Path("/dev/shm/llb-test").write_bytes(b"x"),
            "a file in /tmp": lambda: Path("/tmp/llb-test").write_bytes(b"x"),
            "a file in /dev": lambda: Path("/dev/llb-test").write_bytes(b"x"),
            "opening a terminal": lambda: Path("/dev/tty").open("rb"),
            "an anonymous file": lambda: call(319, 279, text("x"), 0),
            "chmod": lambda: call(90, 53, *((text(model), 0o644) if not ARM else (here, text(model), 0o644))),
            "fchmod": lambda: call(91, 52, fd, 0o644),
            "fchmodat": lambda: call(268, 53, here, text(model), 0o644),
            "fchmodat2": lambda: call(452, 452, here, text(model), 0o644, 0),
            "chown": lambda: os.chown(model, os.getuid(), os.getgid()),
            "fchown": lambda: os.fchown(fd, os.getuid(), os.getgid()),
            "fchownat": lambda: call(260, 54, here, text(model), os.getuid(), os.getgid(), 0),
            "utimensat": lambda: call(280, 88, here, text(model), times, 0),
            "futimens": lambda: call(280, 88, fd, None, times, 0),
            "utime": lambda: call(132, None, text(model), None),
            "setxattr": lambda: call(188, 5, text(model), text("user.x"), text("y"), 1, 0),
            "lsetxattr": lambda: call(189, 6, text(model), text("user.x"), text("y"), 1, 0),
            "fsetxattr": lambda: call(190, 7, fd, text("user.x"), text("y"), 1, 0),
            "setxattrat": lambda: call(463, 463, here, text(model), 0, text("user.x"), None, 0),
            "getxattr": lambda: call(191, 8, text(model), text("user.x"), None, 0),
            "removexattr": lambda: call(197, 14, text(model), text("user.x")),
            "changing the flags of a file": lambda: fcntl.ioctl(fd, 0x40086602, struct.pack("=Q", 0)),
            "locking a file": lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
            "flock": lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
            "watching files": lambda: call(294, 26, 0),
            "opening by handle": lambda: call(304, 265, here, None, 0),
            "mount": lambda: call(165, 40, text("none"), text("/mnt"), text("tmpfs"), 0, None),
            "open_tree": lambda: call(428, 428, here, text("/"), 1),
            "fsopen": lambda: call(430, 430, text("tmpfs"), 0),
            "chroot": lambda: os.chroot("/"),
        }

    def processes(self) -> dict[str, Attempt]:
        victim = self.victim
        word = ctypes.create_string_buffer(8)
        vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(word), 8))
        remote = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(word), 8))
        info = ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1), 128)
        limits = ctypes.create_string_buffer(struct.pack("=QQ", 64, 64))
        return {
            "kill": lambda: os.kill(victim, 0),
            "killing all": lambda: os.kill(-1, 0),
            "tgkill": lambda: call(234, 131, victim, victim, 0),
            "tkill": lambda: call(200, 130, victim, 0),
            "rt_sigqueueinfo": lambda: call(129, 138, victim, 10, info),
            "rt_tgsigqueueinfo": lambda: call(297, 240, victim, victim, 10, info),
            "pidfd_open": lambda: os.pidfd_open(victim),
            "pidfd_send_signal": lambda: call(424, 424, 0, 0, None, 0),
            "pidfd_getfd": lambda: call(438, 438, 0, 0, 0),
            "a signal by F_SETOWN": lambda: fcntl.fcntl(self.pipe[0], fcntl.F_SETOWN, victim),
            "a signal by F_SETOWN_EX": lambda: fcntl.fcntl(self.pipe[0], 15, struct.pack("=ii", 1, victim)),
            "a signal by F_SETSIG": lambda: fcntl.fcntl(self.pipe[0], 10, signal.SIGTERM),
            "a signal by FIOSETOWN": lambda: fcntl.ioctl(
                self.outside.fileno(), 0x8901, struct.pack("=i", victim)
            ),
            "typing into a terminal": lambda: fcntl.ioctl(self.pipe[0], 0x5412, b"x"),
            "pasting into a terminal": lambda: fcntl.ioctl(self.pipe[0], 0x541C, b"\x03"),
            "ptrace": lambda: call(101, 117, 16, victim, 0, 0),
            "process_vm_readv": lambda: call(310, 270, victim, vector, 1, remote, 1, 0),
            "process_vm_writev": lambda: call(311, 271, victim, vector, 1, remote, 1, 0),
            "process_madvise": lambda: call(440, 440, 0, vector, 1, 4, 0),
            "kcmp": lambda: call(312, 272, os.getpid(), victim, 0, 0, 0),
            "environment of another process": Path(f"/proc/{victim}/environ").read_bytes,
            "memory of another process": lambda: Path(f"/proc/{victim}/mem").open("rb"),
            "command line of another process": Path(f"/proc/{victim}/cmdline").read_bytes,
            "files of another process": lambda: list(Path(f"/proc/{victim}/fd").iterdir()),
            "limits of another process": lambda: call(302, 261, victim, 7, limits, None),
            "priority of another process": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
            "I/O priority of another process": lambda: call(251, 30, 1, victim, 0x4007),
            "processors of another process": lambda: os.sched_setaffinity(victim, {0}),
            "scheduler of another process": lambda: os.sched_setscheduler(
                victim, os.SCHED_IDLE, os.sched_param(0)
            ),
            "pages of another process": lambda: call(279, 239, victim, 0, None, None, None, 0),
            "a System V shared memory": lambda: call(29, 194, 0x11B, 4096, 0o600 | 0o1000),
            "a System V semaphore": lambda: call(64, 190, 0x11B, 1, 0o600 | 0o1000),
            "a System V queue": lambda: call(68, 186, 0x11B, 0o600 | 0o1000),
            "a POSIX queue": lambda: call(240, 180, text("llb-test"), 0o102, 0o600, None),
        }

    def programs(self) -> dict[str, Attempt]:
        return {
            "fork": fork_child,
            "clone of a process": lambda: os._exit(0) if call(56, 220, 17, 0, 0, 0, 0) == 0 else None,
            "clone of a namespace": lambda: call(56, 220, 0x00010000 | 0x00000900 | 0x20000000, 0, 0, 0, 0),
            "clone3": lambda: call(435, 435, ctypes.create_string_buffer(64), 64),
            "execve": lambda: call(59, 221, text("/bin/true"), None, None),
            "execveat": lambda: call(322, 281, -100, text("/bin/true"), None, None, 0),
            "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
            "unshare": lambda: call(272, 97, 0x10000000),
            "setns": lambda: call(308, 268, 0, 0),
            "becoming root": lambda: os.setresuid(0, 0, 0),
            "becoming another user": lambda: os.setresuid(1, 1, 1),
            "another file user": lambda: call(122, 151, 0),
            "becoming group root": lambda: os.setresgid(0, 0, 0),
            "setgroups": lambda: os.setgroups([]),
            "capset": lambda: call(126, 91, None, None),
            "being dumpable": lambda: self.prctl(4, 1),
            "surviving the parent": lambda: self.prctl(1, 0),
            "letting others trace": lambda: self.prctl(0x59616D61, -1),
            "bounding capabilities": lambda: self.prctl(24, 0),
            "moving the program's segments": lambda: self.prctl(35, 1),
            "personality": lambda: call(135, 92, 0x0400000),
            "bpf": lambda: call(321, 280, 0, None, 0),
            "userfaultfd": lambda: call(323, 282, 1),
            "perf_event_open": lambda: call(298, 241, None, 0, -1, -1, 0),
            "keyctl": lambda: call(250, 219, 0, -3, 0, 0, 0),
            "add_key": lambda: call(248, 217, text("user"), text("x"), text("y"), 1, -3),
            "request_key": lambda: call(249, 218, text("user"), text("x"), None, -3),
            "init_module": lambda: call(175, 105, None, 0, text("")),
            "finit_module": lambda: call(313, 273, 0, text(""), 0),
            "kexec_load": lambda: call(246, 104, 0, 0, None, 0),
            "reboot": lambda: call(169, 142, 0, 0, 0, None),
            "the kernel's log": lambda: call(103, 116, 10, None, 0),
            "setting the clock": lambda: call(227, 112, 0, None),
            "the host's name": lambda: call(170, 161, text("x"), 1),
            "fanotify": lambda: call(300, 262, 0, 0),
        }

    def code(self) -> dict[str, Attempt]:
        """Attempts to run code that is in no library, which only the second filter refuses."""
        return {
            "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
            "making memory executable": self.make_executable,
            "a library": lambda: self.map_executable(self.open_file.fileno()),
        }

    def allowed(self) -> dict[str, Attempt]:
        """What an engine needs."""
        return {
            "reading the model": self.model.read_bytes,
            "reading the build of llama.cpp": (self.home / BUILD_FILE).read_bytes,
            "mapping the model": lambda: mmap.mmap(self.open_file.fileno(), 0, prot=mmap.PROT_READ),
            "reading /proc/self/status": Path("/proc/self/status").read_bytes,
            "reading /proc/cpuinfo": Path("/proc/cpuinfo").read_bytes,
            "reading the topology": lambda: list(Path("/sys/devices/system/cpu").iterdir()),
            "reading /dev/urandom": lambda: os.urandom(8),
            "a thread": lambda: threading.Thread(target=int).start(),
            "writing to a pipe": lambda: os.write(self.pipe[1], b"x"),
            "memory": lambda: mmap.mmap(-1, 1 << 20),
            "a signal to itself": lambda: signal.pthread_kill(threading.main_thread().ident or 0, 0),
            "its processors": lambda: os.sched_getaffinity(0),
        }

    @staticmethod
    def prctl(option: int, value: int) -> None:
        call(157, 167, option, value, 0, 0, 0)

    @staticmethod
    def make_executable() -> None:
        page = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        call(10, 226, address, 4096, 5)

    @staticmethod
    def map_executable(fd: int) -> None:
        mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def main() -> None:
    directory, user_id = Path(sys.argv[1]), int(sys.argv[2])
    # Imported lazily by Python otherwise, from where this user may not read.
    "x".encode("idna")
    if user_id:
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)
    prober = Prober(directory)
    access = restrictions.EngineAccess(paths=(str(prober.model),), gpu=sys.argv[3:] == ["gpu"])
    report = restrictions.restrict_loading(access)

    def claims() -> dict[str, Attempt]:
        return prober.network() | prober.files() | prober.processes() | prober.programs()

    loading = {name: outcome(attempt) for name, attempt in claims().items()}
    # The server listens, as llama.cpp does while it loads; a client connects from outside.
    listening = socket.create_server(("127.0.0.1", 0))
    spare = socket.socket()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    accepted, _ = listening.accept()
    accepted.settimeout(5)
    go = threading.Event()
    in_thread: dict[str, str] = {}

    def try_in_thread() -> None:
        go.wait()
        in_thread.update((name, outcome(attempt)) for name, attempt in claims().items())

    # A thread that was there before the second filter.
    thread = threading.Thread(target=try_in_thread)
    thread.start()
    restrictions.restrict_serving(access, report)
    serving_claims = claims() | prober.code() | prober.existing_sockets(spare, accepted)
    serving = {name: outcome(attempt) for name, attempt in serving_claims.items()}
    allowed = {name: outcome(attempt) for name, attempt in prober.allowed().items()}
    go.set()
    thread.join()
    allowed["receiving"] = outcome(lambda: accepted.recv(1))
    allowed["sending"] = outcome(lambda: accepted.sendall(b"x"))
    os.close(prober.victim_pipe)
    told = {
        "user_id": report.user_id,
        "landlock_version": report.landlock_version,
        "seccomp": report.seccomp,
        "loading": loading,
        "serving": serving,
        "threads": in_thread,
        "allowed": allowed,
        "environment": sorted(os.environ),
        "status": Path("/proc/self/status").read_text(),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
