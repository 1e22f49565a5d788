"""What an engine is to run and how much memory that takes: from the model's files to one `EngineSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llb.decide.eviction import Memory
from llb.engine.worker import EngineSpec
from llb.hardware import Budget
from llb.wire import Capability


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """One model's files on this host: the first shard, then the rest (further shards, a projector)."""

    model_path: Path
    extra_paths: tuple[Path, ...] = ()
    capabilities: tuple[Capability, ...] = (Capability.TEXT_GENERATION,)
    required_memory_bytes: int = 0


@dataclass(frozen=True)
class EnginePlan:
    """An engine that fits, and the memory that it will take."""

    spec: EngineSpec
    memory: Memory


class ModelFacts: ...


class Planner:
    def __init__(self, *, slots: int, context: int | None) -> None:
        self.slots = slots
        self.context = context

    def inspect(self, files: EngineFiles) -> ModelFacts:
        raise NotImplementedError

    def plan(self, model_id: str, files: EngineFiles, facts: ModelFacts, room: Budget) -> EnginePlan | None:
        raise NotImplementedError

    def least_bytes(self, files: EngineFiles, facts: ModelFacts) -> int:
        raise NotImplementedError
