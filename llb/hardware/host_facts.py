"""Facts of this host that decide which builds of llama.cpp start: `python -m llb.hardware.host_facts`.

The process prints them as JSON. It is a child of llb, because drivers that are broken hang or crash.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from llb.base import platform_compat
from llb.hardware.engine_command import engine_environment
from llb.hardware.nvidia_driver import read_nvidia_driver
from llb.hardware.pci_gpus import list_pci_gpus
from llb.policy.engine_build.choice import GpuFacts, HostFacts

TIMEOUT_S = 30.0
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Devices that exist where a GPU may be: NVIDIA's driver, WSL, Jetson.
_GPU_DEVICES = ("dev/nvidiactl", "dev/nvidia0", "dev/dxg", "dev/nvhost-gpu", "dev/nvmap")
_ICD_DIRECTORIES = ("usr/share/vulkan/icd.d", "usr/local/share/vulkan/icd.d", "etc/vulkan/icd.d")
_ICD_VENDORS = {"nvidia": "nvidia", "nouveau": "nvidia", "radeon": "amd", "amd": "amd", "intel": "intel"}
_LIBRARY_DIRECTORIES = ("usr/lib", "usr/lib64", "usr/lib/x86_64-linux-gnu", "opt/rocm/lib")


async def query_host_facts(environ: Mapping[str, str] = os.environ) -> HostFacts:
    """Return the facts of this host, from a child process where there may be a GPU.

    If the child does not answer within the deadline, only the facts that need no driver are returned.
    """
    if not may_have_gpu(environ=environ):
        return _host_facts(())
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", __name__,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=engine_environment(environ),
        )  # fmt: skip
    except OSError:
        return _host_facts(tuple(list_pci_gpus(environ=environ)))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
        return msgspec.json.decode(output, type=HostFacts)
    except (TimeoutError, msgspec.MsgspecError):
        return _host_facts(tuple(list_pci_gpus(environ=environ)))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def may_have_gpu(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a driver should be asked. On Macs none is: the installed package has Metal."""
    if not sys.platform.startswith("linux"):
        return sys.platform == "win32"
    return any(list_pci_gpus(root, environ)) or any((root / device).exists() for device in _GPU_DEVICES)


def gather_host_facts(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> HostFacts:
    """Return the facts of this host; blocking, and loads drivers."""
    driver = read_nvidia_driver(environ)
    known = {gpu.address for gpu in driver.gpus}
    # A GPU that a working driver does not list belongs to another container.
    others = [
        gpu
        for gpu in list_pci_gpus(root, environ)
        if gpu.address not in known and (gpu.vendor != "nvidia" or driver.cuda is None)
    ]
    return _host_facts((*driver.gpus, *others), root, environ, nvidia_driver=driver.version, cuda=driver.cuda)


def _host_facts(
    gpus: tuple[GpuFacts, ...],
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
    *,
    nvidia_driver: tuple[int, ...] | None = None,
    cuda: tuple[int, int] | None = None,
) -> HostFacts:
    machine = platform.machine().lower()
    return HostFacts(
        system=platform.system().lower(),
        machine=_MACHINES.get(machine, machine),
        glibc=_glibc_version(),
        gpus=gpus,
        nvidia_driver=nvidia_driver,
        cuda=cuda,
        rocm=_rocm_version(root),
        vulkan_vendors=_vulkan_vendors(root, environ),
    )


def _glibc_version() -> tuple[int, int] | None:
    name = ""
    with suppress(AttributeError, ValueError, OSError):
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    found = re.match(r"glibc (\d+)\.(\d+)", name)
    return (int(found[1]), int(found[2])) if found else None


def _rocm_version(root: Path) -> tuple[int, int] | None:
    """Return the newest version of ROCm: by its version file, or by the major version of its library."""
    versions: list[tuple[int, int]] = []
    for file in (root / "opt").glob("rocm*/.info/version"):
        with suppress(OSError):
            if found := re.match(r"(\d+)\.(\d+)", file.read_text()):
                versions.append((int(found[1]), int(found[2])))
    for directory in _LIBRARY_DIRECTORIES:
        for library in (root / directory).glob("libamdhip64.so.*"):
            if found := re.match(r"libamdhip64\.so\.(\d+)", library.name):
                versions.append((int(found[1]), 0))
    return max(versions, default=None)


def _vulkan_vendors(root: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    if sys.platform == "win32":
        loader = Path(environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "vulkan-1.dll"
        return tuple(sorted(set(_ICD_VENDORS.values()))) if loader.exists() else ()
    named = environ.get("VK_DRIVER_FILES") or environ.get("VK_ICD_FILENAMES") or ""
    names = [Path(path).name for path in named.split(":") if path]
    if not names:
        names = [file.name for folder in _ICD_DIRECTORIES for file in (root / folder).glob("*.json")]
    vendors = {vendor for name in names for prefix, vendor in _ICD_VENDORS.items() if name.startswith(prefix)}
    return tuple(sorted(vendors))


def main() -> int:
    """Print the facts of this host."""
    platform_compat.kill_with_parent()
    sys.stdout.buffer.write(msgspec.json.encode(gather_host_facts()) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
