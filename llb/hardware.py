"""What this host has and what the installed engine can use of it: the engine's devices, NVML's names and meters, RAM."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from llb.wire import Gpu, Hardware, Meters

log = logging.getLogger(__name__)

RAM_SHARE = 0.8  # of the host's RAM, where --memory-limit does not say otherwise
DEVICE_QUERY_TIMEOUT_S = 30.0  # a first CUDA start on a cold machine takes seconds
KILL_TIMEOUT_S = 5.0
GPU_READ_TIMEOUT_S = 1.0
CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")

# What a child that runs llama.cpp may know of our environment: where things are and how GPU libraries are set up.
# Never a token, a proxy, or anything of llb's or the Hub's.
_ALLOWED_ENV = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "SYSTEMROOT",
        "WINDIR",
        "USERPROFILE",
        "LOCALAPPDATA",
        "APPDATA",
        "PROGRAMDATA",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
    ]
)
_ALLOWED_ENV_PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "ROCR_", "HSA_", "AMD_", "VK_", "ONEAPI_", "SYCL_", "ZE_", "OMP_", "GOMP_", "MTL_"
)  # fmt: skip
# An engine's threads wait for each other hundreds of times a token. By default each turns in a loop meanwhile, for tens of
# milliseconds if need be: who shares the cores with another engine, or with anything else, then waits for threads that
# are not running, and a machine under load is twenty times slower (bench/README.md, "Shared cores"). After this many
# turns a thread sleeps until it is woken.
_SPIN_ENV = {"GOMP_SPINCOUNT": "1000"}
_SECRET_ENV_WORDS = ("TOKEN", "SECRET", "PASSWORD", "_KEY")


def engine_command(*arguments: str) -> tuple[str, ...]:
    """How to start the engine's worker: this interpreter, without the current directory on its path."""
    return (sys.executable, "-P", "-m", "llb.engine.worker", *arguments)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`ours` without all that an engine need not know; `llb` is importable in it, and its threads do not wait in loops."""
    kept = {
        name: value
        for name, value in environ.items()
        if (name.upper() in _ALLOWED_ENV or name.upper().startswith(_ALLOWED_ENV_PREFIXES))
        and not any(word in name.upper() for word in _SECRET_ENV_WORDS)
    }
    return _SPIN_ENV | kept | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


# --- facts -------------------------------------------------------------------------------------------


class ComputeDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Something the installed llama.cpp can compute on; `kind` is cpu, gpu, igpu or accel."""

    name: str
    description: str
    kind: str
    device_id: str = ""  # the PCI address, where it has one
    memory_total_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True)
class MemoryBudget:
    """What engines may use: RAM, and the memory of each device they can compute on."""

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + sum(self.vram_bytes)


@dataclass(frozen=True)
class HardwareInfo:
    """What a probe found. `problems` are sentences for people: what is wrong and how to mend it."""

    hardware: Hardware
    devices: tuple[ComputeDevice, ...] = ()
    problems: tuple[str, ...] = ()

    def memory_budget(self, limit_bytes: int | None = None) -> MemoryBudget:
        """VRAM of the devices the engine sees + 80 % of RAM; with a limit, no more than that in all, VRAM first."""
        ram_total = self.hardware.memory_total_bytes
        ram = int(ram_total * RAM_SHARE)
        vram = [device.memory_total_bytes for device in self.devices if device.kind == "gpu"]
        shared = [device.memory_total_bytes for device in self.devices if device.kind == "igpu"]
        if _has_unified_memory():
            vram, shared = [], vram + shared
        if limit_bytes is not None:
            vram = _cap_total(limit_bytes, vram)
            ram = min(ram_total, limit_bytes - sum(vram))
        if not vram and shared:
            # These GPUs compute in the host's RAM: it must not be promised twice.
            vram = _cap_total(ram, shared)
            ram -= sum(vram)
        return MemoryBudget(ram_bytes=ram, vram_bytes=tuple(vram))


def _cap_total(limit_bytes: int, sizes: Sequence[int]) -> list[int]:
    """`sizes` in order, cut where their sum would pass the limit."""
    kept: list[int] = []
    for size in sizes:
        kept.append(min(size, limit_bytes - sum(kept)))
    return [size for size in kept if size > 0]


def _has_unified_memory() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


class HardwareProbe:
    """This host: probed once in the background, then metered. `close()` is idempotent."""

    def __init__(self, *, devices_command: Sequence[str] | None = None) -> None:
        self._devices_command = devices_command or engine_command("--devices")
        # Its own single thread: a driver that hangs must not take the loop's threads with it.
        self._nvml_thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._nvml: Nvml | None = None
        self._pending_gpu_read: Future[GpuUtilisation] | None = None
        self._gpu_utilisation = GpuUtilisation()
        self._hardware: Hardware | None = None

    async def probe(self) -> HardwareInfo:
        """Ask the engine and the driver what there is; never raises for what a host lacks, see `problems`."""
        problems: list[str] = []
        child = await self._spawn_device_query()
        self._nvml = await asyncio.get_running_loop().run_in_executor(self._nvml_thread, Nvml.open)
        problems += self._nvml.problems
        devices: tuple[ComputeDevice, ...] = ()
        try:
            devices = await self._read_devices(child)
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            problems.append(f"The engine could not be asked for its devices: {error}.")
        unusable = [gpu.name for gpu in self._nvml.gpus if not gpu.is_usable_by(devices)]
        if devices and unusable:
            engine = "the CPU build" if all(device.kind == "cpu" for device in devices) else "without it"
            problems.append(
                f"A GPU is present ({', '.join(unusable)}), the installed engine is {engine}: "
                "install a GPU build of xllamacpp to use it."
            )
        psutil.cpu_percent()  # the first call only sets the mark that the next one measures from
        self._hardware = _build_hardware(self._nvml.gpus, devices)
        return HardwareInfo(self._hardware, devices, tuple(problems))

    @property
    def hardware(self) -> Hardware | None:
        """What `probe` found, with the GPUs' free memory as of the last `meters`; None before the probe."""
        free_bytes = self._gpu_utilisation.free_bytes
        if self._hardware is None or not free_bytes:
            return self._hardware
        gpus = list(self._hardware.gpus)
        for index, free in enumerate(free_bytes):
            gpus[index] = msgspec.structs.replace(gpus[index], memory_free_bytes=free or 0)
        return msgspec.structs.replace(self._hardware, gpus=tuple(gpus))

    async def measure_utilisation(self) -> Meters:
        """What is used now; a driver that does not answer in time leaves the GPU's figures as they were."""
        memory = psutil.virtual_memory()
        gpu = await self._read_gpus()
        return Meters(
            cpu_usage=psutil.cpu_percent() / 100,
            memory_usage=memory.percent / 100,
            gpu_usage=gpu.usage,
            gpu_memory_usage=gpu.memory_usage,
        )

    def close(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            self._nvml_thread.submit(nvml.close)
        self._nvml_thread.shutdown(wait=False, cancel_futures=False)

    async def _read_gpus(self) -> GpuUtilisation:
        if self._nvml is None or not self._nvml.gpus:
            return GpuUtilisation()
        if self._pending_gpu_read is None or self._pending_gpu_read.done():
            self._pending_gpu_read = self._nvml_thread.submit(self._nvml.read_utilisation)
        try:
            async with asyncio.timeout(GPU_READ_TIMEOUT_S):
                self._gpu_utilisation = await asyncio.shield(asyncio.wrap_future(self._pending_gpu_read))
        except TimeoutError:
            log.debug("the GPU driver did not answer within %s s", GPU_READ_TIMEOUT_S)
        return self._gpu_utilisation

    async def _spawn_device_query(self) -> asyncio.subprocess.Process | OSError:
        try:
            return await asyncio.create_subprocess_exec(
                *self._devices_command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=engine_environment(os.environ),
            )
        except OSError as error:
            return error

    async def _read_devices(self, child: asyncio.subprocess.Process | OSError) -> tuple[ComputeDevice, ...]:
        if isinstance(child, OSError):
            raise child
        try:
            async with asyncio.timeout(DEVICE_QUERY_TIMEOUT_S):
                answer, _ = await child.communicate()
        except TimeoutError:
            raise TimeoutError(f"no answer within {DEVICE_QUERY_TIMEOUT_S:.0f} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                # Left unreaped it would keep the loop from closing.
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    await child.wait()
        if child.returncode != 0:
            raise ValueError(f"it ended with status {child.returncode}")
        return msgspec.json.decode(answer, type=tuple[ComputeDevice, ...])


def _build_hardware(nvidia_gpus: Sequence[NvidiaGpu], devices: Sequence[ComputeDevice]) -> Hardware:
    gpus = [
        Gpu(
            name=gpu.name,
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=gpu.memory_free_bytes,
            usable=gpu.is_usable_by(devices),
        )
        for gpu in nvidia_gpus
    ]
    gpus += [
        Gpu(
            name=device.description,
            memory_total_bytes=device.memory_total_bytes,
            memory_free_bytes=device.memory_free_bytes,
            usable=True,
        )
        for device in devices
        if device.kind in ("gpu", "igpu") and not any(gpu.matches_device(device) for gpu in nvidia_gpus)
    ]
    cpu = next((device.description for device in devices if device.kind == "cpu"), None)
    return Hardware(
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_count=cpu_count(),
        memory_total_bytes=memory_total_bytes(),
        gpus=tuple(gpus),
    )


# --- NVIDIA's driver ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class NvidiaGpu:
    """A GPU that the driver lists, whether or not the engine can use it."""

    name: str
    pci_address: str
    memory_total_bytes: int
    memory_free_bytes: int
    handle: Any

    def matches_device(self, device: ComputeDevice) -> bool:
        if self.pci_address and device.device_id:
            return _normalise_pci_address(self.pci_address) == _normalise_pci_address(device.device_id)
        return device.description == self.name

    def is_usable_by(self, devices: Sequence[ComputeDevice]) -> bool:
        return any(self.matches_device(device) for device in devices)


@dataclass(frozen=True)
class GpuUtilisation:
    """Means over the GPUs, as shares 0–1; None where nothing is measured."""

    usage: float | None = None
    memory_usage: float | None = None
    free_bytes: tuple[int | None, ...] = ()


class Nvml:
    """NVIDIA's management library. Blocking; every call of one instance is made from one thread."""

    def __init__(self, library: Any, gpus: tuple[NvidiaGpu, ...], problems: tuple[str, ...]) -> None:
        self._library = library
        self.gpus = gpus
        self.problems = problems

    @classmethod
    def open(cls) -> Nvml:
        """Find the GPUs; without a library there are none, and a library that fails is a problem told."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package that carries the module speaks of its own name
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                return cls(None, (), ())
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            absent = isinstance(error, library.NVMLError_LibraryNotFound)
            problem = f"The NVIDIA driver does not work: {error}. Reinstall it, or restart after an update."
            return cls(None, (), () if absent else (problem,))
        gpus: list[NvidiaGpu] = []
        problems: list[str] = []
        try:
            count = library.nvmlDeviceGetCount()
        except library.NVMLError as error:
            count = 0
            problems.append(f"The NVIDIA driver cannot list its GPUs: {error}.")
        for index in range(count):
            try:
                gpus.append(_nvidia_gpu(library, index))
            except library.NVMLError as error:
                problems.append(f"GPU {index} does not answer: {error}.")
        return cls(library, tuple(gpus), tuple(problems))

    def read_utilisation(self) -> GpuUtilisation:
        """Usage now, over the GPUs that answer."""
        usages: list[float] = []
        free: list[int | None] = []
        used = total = 0
        for gpu in self.gpus:
            free.append(None)
            try:
                memory = self._library.nvmlDeviceGetMemoryInfo(gpu.handle)
                used, total = used + memory.total - memory.free, total + memory.total
                free[-1] = int(memory.free)
                usages.append(self._library.nvmlDeviceGetUtilizationRates(gpu.handle).gpu / 100)
            except self._library.NVMLError as error:
                log.debug("GPU %s does not answer: %s", gpu.name, error)
        return GpuUtilisation(
            usage=sum(usages) / len(usages) if usages else None,
            memory_usage=used / total if total else None,
            free_bytes=tuple(free),
        )

    def close(self) -> None:
        if self._library is not None:
            try:
                self._library.nvmlShutdown()
            except self._library.NVMLError as error:
                log.debug("NVML shutdown: %s", error)


def _nvidia_gpu(library: Any, index: int) -> NvidiaGpu:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return NvidiaGpu(
        name=_to_text(library.nvmlDeviceGetName(handle)),
        pci_address=_to_text(library.nvmlDeviceGetPciInfo(handle).busId),
        memory_total_bytes=int(memory.total),
        memory_free_bytes=int(memory.free),
        handle=handle,
    )


def _to_text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _normalise_pci_address(address: str) -> str:
    """A PCI address in one form: NVML writes eight digits of the domain, llama.cpp four."""
    return re.sub(r"^0+(?=[0-9a-f])", "", address.lower())


# --- the processor and the memory --------------------------------------------------------------------


def memory_total_bytes() -> int:
    """RAM that this process may use: the host's, or its container's limit if that is lower."""
    total = int(psutil.virtual_memory().total)
    limit = cgroup_memory_limit_bytes()
    return total if limit is None else min(total, limit)


def cgroup_memory_limit_bytes(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int | None:
    """The lowest memory limit of the control groups this process is in (versions 1 and 2); None without one."""
    limits = [
        int(text)
        for folder, name in _cgroup_limit_files(
            root, proc_cgroup, "memory", "memory.limit_in_bytes", "memory.max"
        )
        if (text := _read_text(folder / name)).isdecimal()
    ]
    return min(limits, default=None)


def cpu_count(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int:
    """Logical processors that this process may use, at least 1: affinity and container quota count."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder, name in _cgroup_limit_files(root, proc_cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max"):
        quota, _, period = _read_text(folder / name).partition(" ")
        if quota.isdecimal():
            period_us = int(period or _read_text(folder / "cpu.cfs_period_us") or 100_000)
            count = min(count, max(1, math.ceil(int(quota) / period_us)))
    return count


def physical_core_count() -> int:
    """Cores that a computation should use a thread each of, at least 1; more only wait for each other."""
    return max(1, min(psutil.cpu_count(logical=False) or cpu_count(), cpu_count()))


def _cgroup_limit_files(
    root: Path, proc_cgroup: Path, controller: str, name_v1: str, name_v2: str
) -> list[tuple[Path, str]]:
    """Every folder, ours and all above it, where a limit of `controller` may stand, with the limit's file name."""
    folders: list[tuple[Path, str]] = []
    for line in _read_text(proc_cgroup).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, name = root, name_v2
        elif controller in controllers.split(","):
            base, name = root / controller, name_v1
        else:
            continue
        here = base / path.lstrip("/")
        # In a container the path may be the host's, which is not visible here: then only the root is.
        folders += [(folder, name) for folder in (here, *here.parents) if folder.is_relative_to(base)]
    return folders


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
