"""Restrictions of an engine process: user, files, system calls.

An engine reads hostile files, runs their templates, and answers hostile requests. `restrict_loading` comes
before the model is read, `restrict_serving` once the server listens. Nothing undoes them. Each mechanism that
the system lacks is left out, and the report says so.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.engine.sandbox import engine_user, landlock, seccomp
from llb.engine.sandbox.landlock import Access

# linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38

# Libraries; the linker's list of them; topology of the processors; memory. Not /usr and /etc as a whole.
READABLE_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/usr/share/zoneinfo",
    "/nix/store", "/gnu/store",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/numa_balancing",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
# What drivers of GPUs read beside that, and their devices.
GPU_READABLE_PATTERNS = (
    "/sys", "/proc/driver", "/proc/devices", "/proc/modules", "/proc/filesystems", "/proc/sys/vm",
    "/usr/local/cuda*", "/usr/share/vulkan", "/usr/share/glvnd", "/usr/share/nvidia", "/usr/share/drirc.d",
    "/usr/share/libdrm", "/etc/vulkan", "/etc/glvnd", "/etc/OpenCL", "/etc/drirc", "/etc/nvidia",
    "/opt/rocm*", "/opt/amdgpu*", "/opt/intel*", "/opt/cuda*", "/run/opengl-driver", "/run/host/usr/lib",
)  # fmt: skip
GPU_DEVICE_PATTERNS = (
    "/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg", "/dev/udmabuf", "/dev/dma_heap",
)  # fmt: skip
# Where drivers keep compiled shaders, below the user's cache directory.
GPU_CACHE_NAME = "llb-engines"
GPU_CACHE_VARIABLES = ("CUDA_CACHE_PATH", "MESA_SHADER_CACHE_DIR")
# Manifests of Vulkan drivers and layers, or directories of them, which the user names to the loader.
VULKAN_MANIFEST_VARIABLES = (
    "VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES",
    "VK_LAYER_PATH", "VK_ADD_LAYER_PATH", "VK_IMPLICIT_LAYER_PATH", "VK_ADD_IMPLICIT_LAYER_PATH",
)  # fmt: skip

# Library in a manifest: that of its driver, or of each of its layers.
_LIBRARY_PATH = re.compile(r'"library_path"\s*:\s*"([^"\\]+)"')
_SHARD = re.compile(r"(?P<prefix>.*)-\d{5}-of-(?P<count>\d{5})\.gguf")


class SandboxReport(msgspec.Struct, kw_only=True):
    """Restrictions that are in effect: the engines' user, the version of Landlock (0 without), seccomp."""

    user_id: int | None = None
    landlock_version: int = 0
    seccomp: bool = False


class EngineAccess(Struct, frozen=True):
    """Files of an engine's model, and whether it uses GPUs."""

    paths: tuple[str, ...] = ()
    gpu: bool = False


def restrict_loading(access: EngineAccess) -> SandboxReport:
    """Restrict this process, which has one thread, for the loading of a model.

    From here on it opens the libraries and `access.paths` only, for reading, makes no connection, starts no
    program and reaches no other process.
    """
    report = SandboxReport()
    if not sys.platform.startswith("linux"):
        return report
    platform_compat.set_resource_limit("CORE", 0)
    caches = _make_gpu_caches() if access.gpu else []
    report.user_id = engine_user.enter(access.paths, gpu=access.gpu, owned_directories=caches)
    if report.user_id is not None:
        # The kernel forgets both when the user changes.
        platform_compat.kill_with_parent()
    # Drivers read /proc/self, which belongs to root if the process is not dumpable.
    _prctl(_PR_SET_DUMPABLE, 1 if access.gpu else 0)
    if not _prctl(_PR_SET_NO_NEW_PRIVS, 1):
        return report
    report.landlock_version = landlock.apply_landlock(_path_rules(access, caches))
    report.seccomp = seccomp.apply_filter(seccomp.loading_filter(gpu=access.gpu, user_id=report.user_id))
    return report


def restrict_serving(access: EngineAccess, report: SandboxReport) -> None:
    """Restrict all threads for the time in which requests are answered; open sockets stay usable."""
    if report.user_id is not None:
        engine_user.leave_root(report.user_id)
    if report.seccomp:
        report.seccomp = seccomp.apply_filter(seccomp.serving_filter(gpu=access.gpu))


def model_paths(model_path: str, *others: str | None) -> tuple[str, ...]:
    """Return the files that llama.cpp opens for a model: the file or all its shards, and the others."""
    path = Path(model_path)
    shards = _SHARD.fullmatch(path.name)
    paths = [model_path]
    if shards is not None:
        count = int(shards["count"])
        names = (f"{shards['prefix']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
        paths = [str(path.with_name(name)) for name in names]
    return (*paths, *(other for other in others if other is not None))


def _path_rules(access: EngineAccess, caches: list[Path]) -> Iterator[tuple[str | Path, Access]]:
    for path in (*access.paths, *READABLE_PATHS, *_python_paths(), *_library_paths()):
        yield path, landlock.READ
    yield "/dev/null", landlock.DEVICE
    if not access.gpu:
        return
    for patterns, rights in ((GPU_READABLE_PATTERNS, landlock.READ), (GPU_DEVICE_PATTERNS, landlock.DEVICE)):
        for pattern in patterns:
            for found in Path("/").glob(pattern.removeprefix("/")):
                yield found, rights
    for file in _named_vulkan_files():
        yield file, landlock.READ
    # Memory that a driver shares with its daemons.
    for cache in (*map(str, caches), *_named_caches(), "/dev/shm"):  # noqa: S108
        yield cache, landlock.CACHE


def _python_paths() -> Iterator[str]:
    """Yield the directories of Python's modules and of llb, but not those in which others have files."""
    yield str(Path(os.__file__).parent)
    yield from (path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    for prefix in (sys.prefix, sys.base_prefix):
        yield from (str(Path(prefix) / name) for name in ("lib", "lib64"))
    own = str(Path(__file__).resolve().parents[3])
    yield str(Path(own) / "llb")
    # An additional build of llama.cpp. The other entry of the path is llb's.
    yield from (path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", own))


def _library_paths() -> Iterator[str]:
    yield from (path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path.startswith("/"))


def _named_vulkan_files() -> Iterator[Path]:
    """Yield the manifests that the user names to the Vulkan loader, and the libraries that they name."""
    for variable in VULKAN_MANIFEST_VARIABLES:
        for name in filter(None, os.environ.get(variable, "").split(os.pathsep)):
            yield Path(name)
            with suppress(OSError):
                manifests = list(Path(name).glob("*.json")) if Path(name).is_dir() else [Path(name)]
                for manifest in manifests:
                    for library in _LIBRARY_PATH.findall(manifest.read_text(errors="replace")):
                        # A name without a directory is searched for like any library.
                        if "/" in library:
                            yield manifest.parent / library


def _make_gpu_caches() -> list[Path]:
    """Make the directory for compiled shaders, and name it to the drivers for which the user named none."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        cache = Path(base) / GPU_CACHE_NAME
        platform_compat.make_private_dir(cache)
    except (OSError, RuntimeError):
        # A read-only home, or none: shaders are compiled at every start.
        return []
    for name in GPU_CACHE_VARIABLES:
        os.environ.setdefault(name, str(cache))
    return [cache]


def _named_caches() -> list[str]:
    return [os.environ[name] for name in GPU_CACHE_VARIABLES if name in os.environ]


def _prctl(option: int, value: int) -> bool:
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
