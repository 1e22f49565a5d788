"""Drafts: models that draft tokens for other models of the same node, or for themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from llb.engine.model_engine import ModelEngine
from llb.engine.planning.engine_plan import DraftModel, EnginePlan, EnginePlanner, ModelMetadata
from llb.engine.spec import EngineKind
from llb.errors import ModelFailed
from llb.policy.memory import FreeMemory
from llb.wire import DraftReport, DraftState, Speculation

log = logging.getLogger(__name__)


class Drafts:
    """Drafts of the `engines` of a pool, by model id: the draft models, and whether they work."""

    def __init__(self, engines: Mapping[str, ModelEngine], planner: EnginePlanner) -> None:
        self._engines = engines
        self._planner = planner
        # Draft model, and how the model drafts for itself, by the id of the model.
        self._drafting: dict[str, tuple[str | None, Speculation | None]] = {}

    def set_draft(self, model_id: str, draft_id: str | None, speculation: Speculation | None) -> None:
        """Set which model drafts for `model_id`, or how it drafts for itself, from its next load on."""
        if draft_id is None and speculation is None:
            self._drafting.pop(model_id, None)
        else:
            self._drafting[model_id] = (draft_id, speculation)
        if model_id in self._engines:
            self._engines[model_id].set_draft(draft_id, speculation)

    def drafting_of(self, model_id: str) -> tuple[str | None, Speculation | None]:
        return self._drafting.get(model_id, (None, None))

    def engines_drafted_by(self, model_id: str) -> list[ModelEngine]:
        return [engine for engine in self._engines.values() if engine.draft_id == model_id]

    def is_unread(self, engine: ModelEngine) -> bool:
        """Whether `read` has to run before the engine can be planned with its draft model."""
        return (
            engine.is_draft_compatible is None
            and not engine.has_draft_failed
            and self._drafter_of(engine) is not None
        )

    async def read(self, engine: ModelEngine) -> None:
        """Read the header of the draft model, and whether its tokens are those of the model."""
        drafter, files = self._drafter_of(engine), engine.files
        if drafter is None:
            return
        draft_files, metadata, is_compatible = drafter.files, None, False
        try:
            metadata = await asyncio.to_thread(self._planner.read_metadata, draft_files)
            draft = DraftModel(draft_files.model_path, metadata.shape)
            is_compatible = await asyncio.to_thread(self._planner.has_same_vocabulary, files, draft)
        except ModelFailed as error:
            # The draft model is not leased, but its own engine would be refused for the same reason.
            log.info("draft model %s: %s", drafter.model_id, error.text)
        finally:
            # Also after a defect of llb, which must not be repeated at once. Another draft may be named, or
            # the files replaced meanwhile.
            if self._drafter_of(engine) is drafter and (engine.files, drafter.files) == (files, draft_files):
                engine.is_draft_compatible = is_compatible
                drafter.metadata = metadata or drafter.metadata

    def add_drafts(
        self, engine: ModelEngine, metadata: ModelMetadata, plan: EnginePlan, free: FreeMemory
    ) -> EnginePlan:
        """Return `plan` with the drafts that are set for the engine, or unchanged if they cannot be used.

        `metadata` are those of the engine's own model, with its calibration.
        """
        engine.draft_report = None
        draft_id, speculation = engine.draft_id, engine.speculation
        if engine.files.kind is not EngineKind.CHAT or (draft_id is None and speculation is None):
            return plan
        state, drafting = self._plan_drafts(engine, metadata, plan, free)
        drafter_id = draft_id if draft_id is not None and speculation is None else engine.model_id
        engine.draft_report = DraftReport(model_id=drafter_id, state=state, speculation=speculation)
        if drafting is None:
            drafts = speculation or drafter_id
            log.info("model %s is loaded without drafts (%s): %s", engine.model_id, drafts, state)
        return drafting or plan

    def _plan_drafts(
        self, engine: ModelEngine, metadata: ModelMetadata, plan: EnginePlan, free: FreeMemory
    ) -> tuple[DraftState, EnginePlan | None]:
        draft = None
        if engine.speculation is None:
            drafter = self._drafter_of(engine)
            if drafter is None or drafter.metadata is None:
                return DraftState.MISSING, None
            draft = DraftModel(drafter.files.model_path, drafter.metadata.shape)
        if engine.has_draft_failed:
            return DraftState.FAILED, None
        if draft is not None and not engine.is_draft_compatible:
            return DraftState.VOCABULARY, None
        state, drafting = self._planner.add_drafts(plan, metadata, draft, engine.speculation, free)
        if engine.plan_failures and drafting is not None:
            # A plan that has failed already is made smaller, not larger.
            return DraftState.MEMORY, None
        return state, drafting

    def _drafter_of(self, engine: ModelEngine) -> ModelEngine | None:
        """Return the engine of the draft model, which need not run; None if this node does not serve it."""
        drafter = self._engines.get(engine.draft_id) if engine.draft_id is not None else None
        return None if drafter is None or drafter.rejection_reason is not None else drafter
