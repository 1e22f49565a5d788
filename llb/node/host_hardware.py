"""Hardware of this host for its node: probe, memory budget of the engines, change of the engine's build."""

from __future__ import annotations

import asyncio
import logging

from llb.engine.builds.selector import BuildSelector
from llb.engine.pool import EnginePool
from llb.hardware import ComputeDevice, HardwareInfo, HardwareProbe, MemoryBudget, summarise_engine
from llb.wire import EngineInfo, Hardware, Meters

log = logging.getLogger(__name__)


class HostHardware:
    """Owner of the probe; `close()` is idempotent. Nothing is known before `ensure_probed()`."""

    def __init__(
        self,
        probe: HardwareProbe,
        engine_pool: EnginePool,
        builds: BuildSelector | None,
        *,
        memory_limit_bytes: int | None,
    ) -> None:
        """Without `builds` the engines always run the installed build."""
        self._probe = probe
        self._engine_pool = engine_pool
        self._builds = builds
        self._memory_limit_bytes = memory_limit_bytes
        self._info: HardwareInfo | None = None

    # --- facts ---------------------------------------------------------------------------------------

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems as sentences, with remedies."""
        return self._info.problems if self._info is not None else ()

    @property
    def engine(self) -> EngineInfo | None:
        return None if self._info is None else self.current(self._info).engine

    @property
    def capacity(self) -> tuple[MemoryBudget, tuple[ComputeDevice, ...]] | None:
        """Memory that all engines of this host together may use, and its GPUs; None before the probe."""
        info, budget = self._probe.info, self._engine_pool.budget
        return None if info is None or budget is None else (budget, info.gpus)

    def current(self, info: HardwareInfo) -> Hardware:
        """Return the hardware of `info` with the free memory of the last measurement."""
        return self._probe.hardware or info.hardware

    def budget(self, info: HardwareInfo) -> MemoryBudget:
        return info.memory_budget(self._memory_limit_bytes)

    async def measure_utilisation(self) -> Meters:
        return await self._probe.measure_utilisation()

    # --- probes --------------------------------------------------------------------------------------

    async def ensure_probed(self) -> HardwareInfo:
        """Return the hardware; the first call probes it, with the best build that was verified."""
        if self._info is None:
            if self._builds is not None:
                build = await asyncio.to_thread(self._builds.find_other)
                if build is not None:
                    self._builds.switch(build)
            await self._probe_and_set_budget()
        assert self._info is not None  # noqa: S101  # set above
        return self._info

    async def change_build(self) -> HardwareInfo | None:
        """Change to another build if there is one and no engine is loaded; returns the hardware with it."""
        if self._builds is None or self._engine_pool.memory_used_bytes:
            return None
        build = await asyncio.to_thread(self._builds.find_other)
        if build is None or self._engine_pool.memory_used_bytes:
            return None
        # An engine that starts before the budget is known has no layers on GPUs, which any build can do.
        self._builds.switch(build)
        return await self._probe_and_set_budget()

    def refresh_budget(self) -> None:
        """Set the budget to the VRAM that is free now, unless an engine of llb occupies some."""
        info = self._probe.info
        if info is not None and not self._engine_pool.used_memory().total_vram_bytes:
            self._engine_pool.set_budget(self.budget(info))

    def close(self) -> None:
        self._probe.close()

    async def _probe_and_set_budget(self) -> HardwareInfo:
        info = await self._probe.probe()
        is_overlay = self._builds is not None and self._builds.get_current().import_path is not None
        if self._builds is not None and is_overlay and not info.gpus:
            # It worked when it was installed; the driver may have changed since.
            reason = info.problems[0].rstrip(".") if info.problems else "it finds no GPU any more"
            self._builds.give_up(reason)
            info = await self._probe.probe()
        self._info = info
        if info.hardware.engine is not None:
            log.info("%s", summarise_engine(info.hardware.engine))
        self._engine_pool.set_budget(self.budget(info))
        return info
