"""Probe of this host: devices of the engine, GPUs of the drivers, utilisation."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec
import psutil
from msgspec.structs import replace

from llb.hardware.description import advise_on_build, describe_engine, describe_hardware
from llb.hardware.device_query import DeviceQueryError, query_devices
from llb.hardware.devices import EngineDevices, HardwareInfo
from llb.hardware.engine_command import EngineBuild, engine_command, engine_environment
from llb.hardware.host_facts import query_host_facts
from llb.hardware.nvml import GpuUtilisation, Nvml
from llb.policy.engine_build.choice import HostFacts
from llb.texts.coded_text import CodedText
from llb.wire import Hardware, Meters

log = logging.getLogger(__name__)

GPU_READ_TIMEOUT_S = 1.0


class HardwareProbe:
    """Hardware probe of this host: a probe for each build of the engine, and measurements.

    `close()` is idempotent.
    """

    def __init__(
        self,
        *,
        get_build: Callable[[], EngineBuild] = EngineBuild,
        query_facts: Callable[[], Coroutine[Any, Any, HostFacts]] = query_host_facts,
        devices_command: Sequence[str] | None = None,
    ) -> None:
        """`get_build` returns the build that engines run now."""
        self._get_build = get_build
        self._query_facts = query_facts
        self._devices_command = devices_command or engine_command("--devices")
        # A thread of its own: a driver that hangs must not block the threads of the event loop's executor.
        self._nvml_thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._nvml: Nvml | None = None
        self._pending_gpu_read: Future[GpuUtilisation] | None = None
        self._gpu_utilisation = GpuUtilisation()
        # Results of the last measurement, as shares.
        self._cpu_usage = self._memory_usage = 0.0
        self._info: HardwareInfo | None = None

    async def probe(self) -> HardwareInfo:
        """Query the engine and the driver; failures become `problems` of the result."""
        build = self._get_build()
        async with asyncio.TaskGroup() as queries:
            engine_query = queries.create_task(self._query_engine(build))
            facts_query = queries.create_task(self._query_facts())
            if self._nvml is None:
                self._nvml = await self._run_in_nvml_thread(Nvml.open)
        engine, engine_problem = engine_query.result()
        facts = facts_query.result()
        problems = [*self._nvml.problems, *filter(None, (engine_problem,))]
        # Read again: the query above took VRAM for a context of its own while it ran.
        await self._read_gpus()
        gpus = self._nvml.gpus
        info = None
        if engine.devices:
            advice = advise_on_build(build, engine, facts, gpus)
            problems += [advice.problem] if advice.problem else []
            info = describe_engine(build, engine, advice.reason)
        # The first call only starts the measurement.
        psutil.cpu_percent()
        self._info = HardwareInfo(
            describe_hardware(gpus, engine, facts, info), engine.devices, tuple(problems)
        )
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
        engine = info.hardware.engine
        if engine is not None:
            engine_devices = (
                msgspec.structs.replace(device, memory_free_bytes=measured.memory_free_bytes)
                for device, measured in zip(engine.devices, devices, strict=True)
            )
            engine = msgspec.structs.replace(engine, devices=tuple(engine_devices))
        hardware = msgspec.structs.replace(info.hardware, gpus=tuple(gpus), engine=engine)
        return replace(info, hardware=hardware, devices=tuple(devices))

    async def measure_utilisation(self) -> Meters:
        """Measure the present utilisation.

        The GPU values stay the same if the driver does not answer in time, the others if the system gives no
        descriptor for its figures.
        """
        gpu = await self._read_gpus()
        with suppress(OSError):
            self._cpu_usage = psutil.cpu_percent() / 100
            self._memory_usage = psutil.virtual_memory().percent / 100
        return Meters(
            cpu_usage=self._cpu_usage,
            memory_usage=self._memory_usage,
            gpu_usage=gpu.usage,
            gpu_memory_usage=gpu.memory_usage,
        )

    def close(self) -> None:
        """Shut NVML down without waiting for it; idempotent."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            self._nvml_thread.submit(nvml.close)
        self._nvml_thread.shutdown(wait=False, cancel_futures=False)

    async def _query_engine(self, build: EngineBuild) -> tuple[EngineDevices, str | None]:
        """Return the devices, none with a sentence that says why they are unknown."""
        try:
            return await query_devices(self._devices_command, engine_environment(os.environ, build)), None
        except DeviceQueryError as error:
            return EngineDevices(), CodedText(
                "engine_no_devices",
                "The devices of the engine could not be queried: {detail}.",
                detail=str(error),
            )

    async def _run_in_nvml_thread(self, function: Callable[[], Nvml]) -> Nvml:
        return await asyncio.get_running_loop().run_in_executor(self._nvml_thread, function)

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
