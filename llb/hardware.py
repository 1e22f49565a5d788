"""Hardware of this host: compute devices of the installed engine, NVIDIA GPUs, RAM, processors, and
utilisation.
"""

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import psutil

from llb.policy.memory import FreeMemory
from llb.wire import Gpu, Hardware, Meters

log = logging.getLogger(__name__)

# Share of the RAM that engines may use without --memory-limit.
RAM_SHARE = 0.8
# Of each GPU with memory of its own, what stays free for the desktop and for estimates that are too small.
VRAM_MARGIN_BYTES = 256 * 2**20
# The first CUDA start on a cold machine takes seconds.
DEVICE_QUERY_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
GPU_READ_TIMEOUT_S = 1.0
CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")

# Environment variables for processes that run llama.cpp: paths, and the set-up of GPU libraries. Never a
# token, a proxy, or a variable of llb or the Hub.
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
    "LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "ROCR_", "HSA_", "AMD_", "VK_", "ONEAPI_", "SYCL_", "ZE_",
    "OMP_", "GOMP_", "MTL_",
)  # fmt: skip
# The threads of an engine wait for each other hundreds of times per token. By default they spin, for tens of
# milliseconds if necessary. On shared cores a thread then spins for another one that is not running, and a
# loaded machine becomes twenty times slower (bench/README.md, "Shared cores"). With this limit a thread
# sleeps after so many iterations.
_SPIN_ENV = {"GOMP_SPINCOUNT": "1000"}
_SECRET_ENV_WORDS = ("TOKEN", "SECRET", "PASSWORD", "_KEY")


def engine_command(*arguments: str) -> tuple[str, ...]:
    """Return the command of the engine worker: this interpreter, isolated from the working directory."""
    return (sys.executable, "-P", "-m", "llb.engine.worker", *arguments)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine: allowed variables, import path of llb, spin limit."""
    allowed = {
        name: value
        for name, value in environ.items()
        if (name.upper() in _ALLOWED_ENV or name.upper().startswith(_ALLOWED_ENV_PREFIXES))
        and not any(word in name.upper() for word in _SECRET_ENV_WORDS)
    }
    return _SPIN_ENV | allowed | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


# --- hardware and memory budget ----------------------------------------------------------------------


class ComputeDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Compute device of the installed llama.cpp; `kind` is cpu, gpu, igpu or accel."""

    name: str
    description: str
    kind: str
    # PCI address, if it has one.
    device_id: str = ""
    memory_total_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True)
class MemoryBudget:
    """Memory for all engines together: RAM, and VRAM per usable device.

    `is_shared`: the devices use the RAM of the host, and `vram_bytes` is the part of it that they may take.
    """

    ram_bytes: int
    vram_bytes: tuple[int, ...] = ()
    is_shared: bool = False

    @classmethod
    def of_described_host(cls, ram_bytes: int, vram_bytes: Sequence[int] = ()) -> MemoryBudget:
        """Return the budget of a host with this much RAM and these GPUs, on which nothing else runs."""
        gpus = tuple(max(0, size - VRAM_MARGIN_BYTES) for size in vram_bytes)
        return cls(int(ram_bytes * RAM_SHARE), gpus)

    def free_memory(self) -> FreeMemory:
        """Return this budget as memory of which nothing is reserved."""
        return FreeMemory(self.ram_bytes, self.vram_bytes, self.is_shared)

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + (0 if self.is_shared else sum(self.vram_bytes))


@dataclass(frozen=True)
class HardwareInfo:
    """Result of a probe. `problems` are sentences for people, with a remedy."""

    hardware: Hardware
    devices: tuple[ComputeDevice, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def gpus(self) -> tuple[ComputeDevice, ...]:
        """Devices of `memory_budget`, in its order."""
        dedicated = tuple(device for device in self.devices if device.kind == "gpu")
        return dedicated or tuple(device for device in self.devices if device.kind == "igpu")

    def memory_budget(self, limit_bytes: int | None = None) -> MemoryBudget:
        """Return the free VRAM of the engine's devices, less a margin, and 80 % of RAM.

        `limit_bytes` caps the sum, VRAM first. Call it while no engine of llb occupies VRAM.
        """
        ram_total = self.hardware.memory_total_bytes
        ram = int(ram_total * RAM_SHARE)
        gpus = [device for device in self.devices if device.kind == "gpu"]
        shared = [device.memory_total_bytes for device in self.devices if device.kind == "igpu"]
        if _has_unified_memory():
            gpus, shared = [], [device.memory_total_bytes for device in gpus] + shared
        vram = [max(0, device.memory_free_bytes - VRAM_MARGIN_BYTES) for device in gpus]
        if limit_bytes is not None:
            vram = _cap_total(limit_bytes, vram)
            ram = min(ram_total, limit_bytes - sum(vram))
        if not gpus and shared:
            return MemoryBudget(ram, tuple(_cap_total(ram, shared)), is_shared=True)
        return MemoryBudget(ram, tuple(vram))


def _cap_total(limit_bytes: int, sizes: Sequence[int]) -> list[int]:
    """Cap `sizes` in order so that their sum is at most `limit_bytes`."""
    capped: list[int] = []
    for size in sizes:
        capped.append(max(0, min(size, limit_bytes - sum(capped))))
    return capped


def _has_unified_memory() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


class HardwareProbe:
    """Hardware probe of this host: one probe, then repeated measurements. `close()` is idempotent."""

    def __init__(self, *, devices_command: Sequence[str] | None = None) -> None:
        self._devices_command = devices_command or engine_command("--devices")
        # A thread of its own: a driver that hangs must not block the threads of the event loop's executor.
        self._nvml_thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._nvml: Nvml | None = None
        self._pending_gpu_read: Future[GpuUtilisation] | None = None
        self._gpu_utilisation = GpuUtilisation()
        self._info: HardwareInfo | None = None

    async def probe(self) -> HardwareInfo:
        """Query the engine and the driver; failures become `problems` of the result."""
        problems: list[str] = []
        process = await self._spawn_device_query()
        self._nvml = await asyncio.get_running_loop().run_in_executor(self._nvml_thread, Nvml.open)
        problems += self._nvml.problems
        devices: tuple[ComputeDevice, ...] = ()
        try:
            devices = await self._read_devices(process)
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            problems.append(f"The devices of the engine could not be queried: {error}.")
        # Read again: the query above took VRAM for a context of its own while it ran.
        await self._read_gpus()
        unusable = [gpu.name for gpu in self._nvml.gpus if not gpu.is_usable_by(devices)]
        if devices and unusable:
            is_cpu_build = all(device.kind == "cpu" for device in devices)
            reason = "is a CPU build" if is_cpu_build else "cannot use it"
            problems.append(
                f"A GPU is present ({', '.join(unusable)}), but the installed engine {reason}: "
                "install a GPU build of xllamacpp."
            )
        # The first call only starts the measurement.
        psutil.cpu_percent()
        self._info = HardwareInfo(_build_hardware(self._nvml.gpus, devices), devices, tuple(problems))
        return self._with_free_memory(self._info)

    @property
    def info(self) -> HardwareInfo | None:
        """Result of `probe` with the free GPU memory of the last measurement; None before the probe."""
        return None if self._info is None else self._with_free_memory(self._info)

    @property
    def hardware(self) -> Hardware | None:
        """`info.hardware`; None before the probe."""
        return None if self._info is None else self._with_free_memory(self._info).hardware

    def _with_free_memory(self, info: HardwareInfo) -> HardwareInfo:
        free_bytes = self._gpu_utilisation.free_bytes
        if self._nvml is None or not free_bytes:
            return info
        gpus, devices = list(info.hardware.gpus), list(info.devices)
        for index, (gpu, free) in enumerate(zip(self._nvml.gpus, free_bytes, strict=True)):
            gpus[index] = msgspec.structs.replace(gpus[index], memory_free_bytes=free or 0)
            for number, device in enumerate(devices):
                if free is not None and gpu.matches_device(device):
                    devices[number] = msgspec.structs.replace(device, memory_free_bytes=free)
        hardware = msgspec.structs.replace(info.hardware, gpus=tuple(gpus))
        return replace(info, hardware=hardware, devices=tuple(devices))

    async def measure_utilisation(self) -> Meters:
        """Measure the present utilisation; the GPU values stay the same if the driver does not answer in
        time.
        """
        memory = psutil.virtual_memory()
        gpu = await self._read_gpus()
        return Meters(
            cpu_usage=psutil.cpu_percent() / 100,
            memory_usage=memory.percent / 100,
            gpu_usage=gpu.usage,
            gpu_memory_usage=gpu.memory_usage,
        )

    def close(self) -> None:
        """Shut NVML down without waiting for it; idempotent."""
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

    async def _read_devices(self, process: asyncio.subprocess.Process | OSError) -> tuple[ComputeDevice, ...]:
        if isinstance(process, OSError):
            raise process
        try:
            async with asyncio.timeout(DEVICE_QUERY_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise TimeoutError(f"no answer within {DEVICE_QUERY_TIMEOUT_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                # An unreaped child would keep the event loop from closing.
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    await process.wait()
        if process.returncode != 0:
            raise ValueError(f"it ended with status {process.returncode}")
        return msgspec.json.decode(output, type=tuple[ComputeDevice, ...])


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
    """GPU of the NVIDIA driver, whether or not the engine can use it."""

    name: str
    pci_address: str
    memory_total_bytes: int
    memory_free_bytes: int
    handle: Any

    def matches_device(self, device: ComputeDevice) -> bool:
        """Return whether `device` is this GPU, by PCI address or else by name."""
        if self.pci_address and device.device_id:
            return _normalise_pci_address(self.pci_address) == _normalise_pci_address(device.device_id)
        return device.description == self.name

    def is_usable_by(self, devices: Sequence[ComputeDevice]) -> bool:
        """Return whether this GPU is one of the engine's `devices`."""
        return any(self.matches_device(device) for device in devices)


@dataclass(frozen=True)
class GpuUtilisation:
    """Means over all GPUs, between 0 and 1; None without a measurement."""

    usage: float | None = None
    memory_usage: float | None = None
    free_bytes: tuple[int | None, ...] = ()


class Nvml:
    """NVIDIA's management library. Blocking; call an instance from one thread only."""

    def __init__(self, library: Any, gpus: tuple[NvidiaGpu, ...], problems: tuple[str, ...]) -> None:
        self._library = library
        self.gpus = gpus
        self.problems = problems

    @classmethod
    def open(cls) -> Nvml:
        """Find the GPUs: none without the library; a failing library is reported in `problems`."""
        with warnings.catch_warnings():
            # The package warns that it has been renamed.
            warnings.simplefilter("ignore")
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                return cls(None, (), ())
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            is_absent = isinstance(error, library.NVMLError_LibraryNotFound)
            problem = f"The NVIDIA driver does not work: {error}. Reinstall it, or restart after an update."
            return cls(None, (), () if is_absent else (problem,))
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
        """Return the present utilisation of the GPUs that answer."""
        usages: list[float] = []
        free: list[int | None] = []
        used_bytes = total_bytes = 0
        for gpu in self.gpus:
            free.append(None)
            try:
                memory = self._library.nvmlDeviceGetMemoryInfo(gpu.handle)
                used_bytes += memory.total - memory.free
                total_bytes += memory.total
                free[-1] = int(memory.free)
                usages.append(self._library.nvmlDeviceGetUtilizationRates(gpu.handle).gpu / 100)
            except self._library.NVMLError as error:
                log.debug("GPU %s does not answer: %s", gpu.name, error)
        return GpuUtilisation(
            usage=sum(usages) / len(usages) if usages else None,
            memory_usage=used_bytes / total_bytes if total_bytes else None,
            free_bytes=tuple(free),
        )

    def close(self) -> None:
        """Shut the library down."""
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
    """Return a PCI address in one format: the domain has eight digits in NVML, four in llama.cpp."""
    return re.sub(r"^0+(?=[0-9a-f])", "", address.lower())


# --- processors and RAM ------------------------------------------------------------------------------


def memory_total_bytes() -> int:
    """Return the RAM of the host, or the limit of its container if that is lower."""
    total = int(psutil.virtual_memory().total)
    limit = cgroup_memory_limit_bytes()
    return total if limit is None else min(total, limit)


def cgroup_memory_limit_bytes(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int | None:
    """Return the lowest memory limit of the control groups of this process (v1 and v2), None without one."""
    limits = [
        int(text)
        for folder, name in _cgroup_limit_files(
            root, proc_cgroup, "memory", "memory.limit_in_bytes", "memory.max"
        )
        if (text := _read_text(folder / name)).isdecimal()
    ]
    return min(limits, default=None)


def cpu_count(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int:
    """Return the logical processors for this process, at least 1, limited by affinity and container quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder, name in _cgroup_limit_files(root, proc_cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max"):
        quota, _, period = _read_text(folder / name).partition(" ")
        if quota.isdecimal():
            period_us = int(period or _read_text(folder / "cpu.cfs_period_us") or 100_000)
            count = min(count, max(1, math.ceil(int(quota) / period_us)))
    return count


def physical_core_count() -> int:
    """Return the number of threads for a computation: physical cores, at least 1."""
    return max(1, min(psutil.cpu_count(logical=False) or cpu_count(), cpu_count()))


def _cgroup_limit_files(
    root: Path, proc_cgroup: Path, controller: str, name_v1: str, name_v2: str
) -> list[tuple[Path, str]]:
    """Return the folders of the process's group and its ancestors that may limit `controller`, with the file
    name.
    """
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
        group = base / path.lstrip("/")
        # In a container the path may be that of the host, of which only the root is visible.
        folders += [(folder, name) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return folders


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
