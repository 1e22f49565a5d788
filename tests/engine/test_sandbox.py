"""Engine sandbox: the claims of docs/security.md, tried from inside; filters of both architectures."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llb.engine.sandbox import landlock, restrictions, seccomp, syscalls
from llb.engine.sandbox.engine_user import ENGINE_USER_IDS
from llb.hardware import EngineBuild, engine_environment
from tests.engine.sandbox_prober import BUILD_FILE

NOBODY = 65534
# What an engine with GPU may beside the others: its driver needs it.
GPU_MAY = {
    "loading": {"a Unix socket", "a pair of Unix sockets", "an anonymous file", "a file in /dev/shm",
                "truncating an open file", "locking a file", "flock", "watching files"},
    "serving": {"a pair of Unix sockets", "an anonymous file", "a file in /dev/shm",
                "truncating an open file", "locking a file", "flock", "watching files",
                "executable memory", "making memory executable", "a library"},
}  # fmt: skip
SECRETS = {"HF_TOKEN": "a-secret", "LLB_ADMIN_PASSWORD": "a-secret", "OPENAI_API_KEY": "a-secret"}


def probe(user_id: int, *arguments: str) -> dict[str, Any]:
    """Run the prober in a directory that every user can read; returns what it found."""
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        build = EngineBuild("vulkan", "1", directory / "home" / Path(BUILD_FILE).parent)
        for name, size_bytes in (
            ("models/m.gguf", 8192),
            ("models/other.gguf", 8),
            ("home/run.json", 8),
            ("home/engines/use", 8),
            (f"home/{BUILD_FILE}", 8),
        ):
            path = directory / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(bytes(size_bytes))
        command = [sys.executable, "-P", "-m", "tests.engine.sandbox_prober", str(directory), str(user_id)]
        environment = engine_environment(os.environ | SECRETS | {"HOME": str(directory)}, build)
        with subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            try:
                port = int(child.stdout.readline())
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"x")
                    found: dict[str, Any] = json.loads(child.stdout.readline())
            finally:
                child.kill()
        assert (directory / "models" / "m.gguf").read_bytes() == bytes(8192)
        return found
    finally:
        shutil.rmtree(directory)
        Path("/dev/shm/llb-test").unlink(missing_ok=True)


def users() -> Iterator[Any]:
    """Yield the users of which the claims are tried: as llb runs here, and an ordinary one."""
    yield pytest.param(0, id="as-it-runs")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield pytest.param(NOBODY, id="nobody")


@pytest.fixture(scope="module", params=users())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _require_sandbox(probe(request.param))


def _require_sandbox(found: dict[str, Any]) -> dict[str, Any]:
    if not found["seccomp"] or not found["landlock_version"]:
        pytest.skip("this kernel has no Landlock or no seccomp")
    return found


def not_refused(found: dict[str, Any], phase: str) -> dict[str, str]:
    assert len(found[phase]) > 130
    return {claim: outcome for claim, outcome in found[phase].items() if outcome != "refused"}


linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Landlock and seccomp are Linux's"
)


@linux_only
@pytest.mark.parametrize("phase", ["loading", "serving", "threads"])
def test_every_claim_holds_from_inside(found: dict[str, Any], phase: str) -> None:
    assert not_refused(found, phase) == {}


@linux_only
def test_what_an_engine_needs_works(found: dict[str, Any]) -> None:
    assert set(found["allowed"].values()) == {"done"}


@linux_only
def test_the_process_has_no_privilege_left_and_knows_no_secret(found: dict[str, Any]) -> None:
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    user_ids = set(status["Uid"].split())
    assert len(user_ids) == 1
    if found["user_id"] is not None:
        assert user_ids == {str(found["user_id"])}
    assert user_ids != {"0"}
    assert set(status["Gid"].split()) != {"0"}
    assert not SECRETS.keys() & set(found["environment"])


@linux_only
def test_an_engine_with_gpu_may_do_only_what_drivers_need() -> None:
    found = _require_sandbox(probe(0, "gpu"))
    for phase in ("loading", "serving"):
        assert set(not_refused(found, phase)) <= GPU_MAY[phase]
    assert set(found["allowed"].values()) == {"done"}


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root can become the engines' user"
)
def test_engines_of_root_have_a_user_of_their_own() -> None:
    found = probe(0)
    assert found["user_id"] in ENGINE_USER_IDS


def test_the_files_of_a_model_are_its_shards_and_its_projector() -> None:
    assert restrictions.model_paths("/m/a.gguf", None) == ("/m/a.gguf",)
    assert restrictions.model_paths("/m/a-00002-of-00003.gguf", "/m/p.gguf") == (
        "/m/a-00001-of-00003.gguf",
        "/m/a-00002-of-00003.gguf",
        "/m/a-00003-of-00003.gguf",
        "/m/p.gguf",
    )


def test_a_vulkan_driver_that_the_user_names_can_be_read_with_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, manifest = tmp_path / "layers", tmp_path / "icd.json"
    layers.mkdir()
    manifest.write_text('{"ICD": {"library_path": "/opt/gpu/libvulkan_x.so", "api_version": "1.3.0"}}')
    (layers / "a.json").write_text('{"layer": {"library_path": "../libLayer.so"}}')
    (layers / "b.json").write_text('{"layer": {"library_path": "libSearched.so"}}')
    monkeypatch.setenv("VK_DRIVER_FILES", os.pathsep.join([str(manifest), str(tmp_path / "gone.json")]))
    monkeypatch.setenv("VK_LAYER_PATH", str(layers))

    def readable(*, gpu: bool) -> set[str]:
        access = restrictions.EngineAccess(gpu=gpu)
        return {str(path) for path, rights in restrictions._path_rules(access, []) if rights is landlock.READ}

    named = {str(manifest), "/opt/gpu/libvulkan_x.so", str(layers), str(layers / "../libLayer.so")}
    assert named <= readable(gpu=True)
    assert not named & readable(gpu=False)
    assert not [path for path in readable(gpu=True) if path.endswith("libSearched.so")]


# --- filters -----------------------------------------------------------------------------------------

ALLOWED, REFUSED, UNKNOWN = "allowed", "refused", "unknown"
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run_filter(program: bytes, arch: int, number: int, *arguments: int) -> str:
    """Run a seccomp filter as the kernel does; returns what it says."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    accumulator, at = 0, 0
    while True:
        code, when_true, when_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code in (0x15, 0x35, 0x45):
            jumps = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}
            at += when_true if jumps[code] else when_false
        else:
            assert code == 0x06
            results = {0x7FFF0000: ALLOWED, 0x50000 | errno.EACCES: REFUSED, 0x50000 | errno.ENOSYS: UNKNOWN}
            return results[value]


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


def filters() -> dict[str, bytes]:
    programs = {
        "loading": seccomp.loading_filter(gpu=False, user_id=7),
        "loading gpu": seccomp.loading_filter(gpu=True, user_id=None),
        "serving": seccomp.serving_filter(gpu=False),
        "serving gpu": seccomp.serving_filter(gpu=True),
    }
    return {name: program for name, program in programs.items() if program is not None}


def test_nothing_but_the_listed_calls_is_allowed(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    tables: dict[str, list[syscalls.Numbers]] = {
        "loading": [syscalls.SERVING, syscalls.LOADING],
        "loading gpu": [syscalls.SERVING, syscalls.LOADING, syscalls.GPU, syscalls.GPU_LOADING],
        "serving": [syscalls.SERVING],
        "serving gpu": [syscalls.SERVING, syscalls.GPU],
    }
    for name, program in filters().items():
        listed = {numbers[column] for table in tables[name] for numbers in table.values()}
        known = {
            number
            for number in [*range(600), *range(0x40000000, 0x40000250), -1]
            if run_filter(program, AUDIT_ARCH[machine], number) != UNKNOWN
        }
        assert known <= listed
        # A 32-bit program's calls, with other numbers.
        assert {run_filter(program, 0x40000003, number) for number in range(600)} == {UNKNOWN}


@pytest.mark.parametrize(
    ("name", "call", "arguments", "result"),
    [
        ("loading", "socket", (socket.AF_INET, socket.SOCK_STREAM | 0o2000000), ALLOWED),
        ("loading", "socket", (socket.AF_INET, 2), REFUSED),
        ("loading", "socket", (1, 1), REFUSED),
        ("loading", "socket", (10, 1), REFUSED),
        ("loading gpu", "socket", (1, 1), ALLOWED),
        ("loading", "setresuid", (7, 7, 7), ALLOWED),
        ("loading", "setresuid", (7, 7, 0), REFUSED),
        ("loading", "setresuid", (0, 0, 0), REFUSED),
        ("loading gpu", "setresuid", (0, 0, 0), UNKNOWN),
        ("loading", "mmap", (0, 4096, 5), ALLOWED),
        ("serving", "mmap", (0, 4096, 5), REFUSED),
        ("serving", "mmap", (0, 4096, 3), ALLOWED),
        ("serving gpu", "mmap", (0, 4096, 5), ALLOWED),
        ("serving", "openat", (0, 0, 0o2000000), ALLOWED),
        ("serving", "openat", (0, 0, 0o1), REFUSED),
        ("serving", "openat", (0, 0, 0o2), REFUSED),
        ("serving", "openat", (0, 0, 0o100), REFUSED),
        ("serving", "openat", (0, 0, 0o20000000), REFUSED),
        ("serving", "clone", (0x3D0F00,), ALLOWED),
        ("serving", "clone", (17,), REFUSED),
        ("serving", "clone", (0x3D0F00 | 0x20000,), REFUSED),
        ("serving", "clone", (0x3D0F00 | 0x80,), REFUSED),
        ("serving", "ioctl", (0, 0x5421), ALLOWED),
        ("serving", "ioctl", (0, 0x5412), REFUSED),
        ("serving", "ioctl", (0, 0xC0046400), REFUSED),
        ("serving gpu", "ioctl", (0, 0xC0046400), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x30000001), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x5401), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x5412), REFUSED),
        ("serving gpu", "ioctl", (0, 0x5400), REFUSED),
        ("serving gpu", "ioctl", (0, 0x54FF), REFUSED),
        ("serving gpu", "ioctl", (0, 0x8914), REFUSED),
        # The kernel reads 32 bits of the argument.
        ("serving gpu", "ioctl", (0, 0x100005412), REFUSED),
        ("serving", "prctl", (15,), ALLOWED),
        ("serving", "prctl", (4,), REFUSED),
        ("serving", "sendto", (0, 0, 0, 0x4000), ALLOWED),
        ("serving", "sendto", (0, 0, 0, 0x20004000), REFUSED),
        ("serving", "fcntl", (0, 4), ALLOWED),
        ("serving", "fcntl", (0, 8), REFUSED),
        ("serving gpu", "fcntl", (0, 8), REFUSED),
        ("serving", "tgkill", (1, 1, 9), REFUSED),
        ("serving", "prlimit64", (1, 7), REFUSED),
    ],
)  # fmt: skip
def test_conditions_of_arguments(
    machine: str, name: str, call: str, arguments: tuple[int, ...], result: str
) -> None:
    tables = {**syscalls.SERVING, **syscalls.LOADING, **syscalls.GPU, **syscalls.GPU_LOADING}
    number = tables[call][0 if machine == "x86_64" else 1]
    assert number is not None
    assert run_filter(filters()[name], AUDIT_ARCH[machine], number, *arguments) == result


@pytest.mark.parametrize(
    ("header", "column"),
    [("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)],
)
def test_numbers_are_those_of_the_kernels_headers(header: str, column: int) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the headers of the kernel are not installed")
    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
    numbers = dict(pattern.findall(path.read_text()))
    numbers.setdefault("newfstatat", numbers.get("fstatat", "0"))
    tables = {**syscalls.SERVING, **syscalls.LOADING, **syscalls.GPU, **syscalls.GPU_LOADING}
    for name, columns in tables.items():
        if columns[column] is not None and name in numbers:
            assert columns[column] == int(numbers[name]), name


def test_an_unknown_architecture_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.serving_filter(gpu=False) is None
    assert not seccomp.apply_filter(None)
