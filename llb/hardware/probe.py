"""Probe of this host: devices of the engine, GPUs of the drivers, utilisation."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import msgspec
import psutil

from llb.hardware.devices import ComputeDevice, HardwareInfo
from llb.hardware.engine_command import engine_command, engine_environment
from llb.hardware.limits import cpu_count, memory_total_bytes
from llb.hardware.nvml import GpuUtilisation, NvidiaGpu, Nvml
from llb.wire import Gpu, Hardware, Meters

log = logging.getLogger(__name__)

# The first CUDA start on a cold machine takes seconds.
DEVICE_QUERY_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
GPU_READ_TIMEOUT_S = 1.0


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
