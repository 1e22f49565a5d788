"""Engine pools over fake workers, and helpers of their tests."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from llb.engine.planning.engine_plan import EngineFiles, EnginePlan, EnginePlanner, ModelMetadata
from llb.engine.pool import EnginePool
from llb.engine.spec import EngineSpec
from llb.errors import LlbError, ModelFailed
from llb.hardware import MemoryBudget
from llb.policy.keep_alive import KeepAlive
from llb.policy.memory import FreeMemory, Memory
from llb.wire import EngineReport, EngineState, LoadOptions
from tests.engine.workers import fake_worker
from tests.shapes import uniform_shape

GB = 10**9
WAIT_S = 20.0
SOON_S = 0.2
MIN_MEMORY_BYTES = 16 * GB


SHAPE = uniform_shape(
    size_bytes=GB, layers=1, embedding_length=8, heads=1, kv_heads=1, feed_forward_length=8,
    vocabulary_size=8,
    context_length=8,
)  # fmt: skip


class TablePlanner(EnginePlanner):
    """Plans from a table of required memory; `shrinkable` models also fit into half of it."""

    def __init__(self) -> None:
        super().__init__(slots=2, context=None)
        self.required: dict[str, Memory] = {}
        self.shrinkable: set[str] = set()
        self.inspected: list[Path] = []
        self.rejection: str | None = None
        self.defective: list[EngineFiles] = []

    def read_metadata(self, files: EngineFiles) -> ModelMetadata:
        self.inspected.append(files.model_path)
        if self.rejection is not None:
            raise ModelFailed(self.rejection)
        if files in self.defective:
            raise RuntimeError("a defect")
        return ModelMetadata(SHAPE)

    def plan_engine(
        self,
        model_id: str,
        files: EngineFiles,
        metadata: ModelMetadata,
        free: FreeMemory,
        options: LoadOptions | None = None,
    ) -> EnginePlan | None:
        options = options or LoadOptions()
        required, context_length = self.required.get(model_id, Memory(GB)), options.context_length or 1024
        if model_id in self.shrinkable and not free.covers(required):
            required, context_length = Memory(required.ram_bytes // 2), 512
        if not free.covers(required):
            return None
        spec = EngineSpec(
            model_path=str(files.model_path),
            alias=model_id,
            context_length=context_length,
            slots=options.slots or self.slots,
            batch_tokens=512,
            ubatch_tokens=512,
            prompt_cache_bytes=0,
            threads=1,
            gpu_layers=tuple(int(size > 0) for size in required.vram_bytes),
            api_key=f"key of {model_id}",
        )
        return EnginePlan(spec, required)

    def min_memory_bytes(
        self, files: EngineFiles, metadata: ModelMetadata, options: LoadOptions | None = None
    ) -> int:
        return MIN_MEMORY_BYTES


class PoolFixture:
    """Makes pools over fake workers with one planner and clock, and collects their engine reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planner = TablePlanner()
        self.now = 1000.0
        self.reports: list[EngineReport] = []
        self.pools: list[EnginePool] = []

    def pool(
        self,
        *worker: str,
        keep_alive_s: float = -1.0,
        ram_bytes: int = 10 * GB,
        vram_bytes: tuple[int, ...] = (),
        models: str = "abc",
        watch_s: float = 3600.0,
        progress_s: float = 3600.0,
        check_s: float = 5.0,
    ) -> EnginePool:
        pool = EnginePool(
            slots=2,
            context=None,
            keep_alive_s=keep_alive_s,
            budget=MemoryBudget(ram_bytes, vram_bytes),
            clock=lambda: self.now,
            planner=self.planner,
            command=fake_worker("--journal", str(self.folder / "journal"), *worker),
            health_interval_s=watch_s,
            progress_interval_s=progress_s,
            health_check_timeout_s=check_s,
        )
        pool.engine_changed.subscribe(self.reports.append)
        self.pools.append(pool)
        for model_id in models:
            pool.add_model(model_id, self.files(model_id))
        return pool

    def files(self, model_id: str) -> EngineFiles:
        return EngineFiles(model_path=self.folder / f"{model_id}.gguf")

    @property
    def loads(self) -> list[str]:
        """Ids of the loaded models, in order."""
        journal = self.folder / "journal"
        return [line.split()[1] for line in journal.read_text().splitlines()] if journal.exists() else []

    def pid(self, load: int = -1) -> int:
        return int((self.folder / "journal").read_text().splitlines()[load].split()[0])

    def states(self, model_id: str) -> list[EngineState]:
        """Return the successive states of a model; a progress report repeats the state STARTING."""
        states = [report.state for report in self.reports if report.model_id == model_id]
        return [state for state, _ in groupby(states)]


def state(pool: EnginePool, model_id: str = "a") -> EngineState:
    """Return the state of an engine, STOPPED if the pool does not report it."""
    states = {report.model_id: report.state for report in pool.engine_reports()}
    return states.get(model_id, EngineState.STOPPED)


async def use(pool: EnginePool, model_id: str = "a", *, keep_alive: KeepAlive | None = None) -> None:
    async with await pool.acquire_lease(model_id, deadline_s=WAIT_S, keep_alive=keep_alive):
        pass


async def error_of(pool: EnginePool, model_id: str = "a", *, deadline_s: float = WAIT_S) -> LlbError:
    with pytest.raises(LlbError) as caught:
        await pool.acquire_lease(model_id, deadline_s=deadline_s)
    return caught.value
