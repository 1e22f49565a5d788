"""Memory estimates of models, also before they are downloaded, from cached GGUF headers."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress

import msgspec

from llb import errors, gguf, hub
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gguf import GgufMetadata
from llb.hardware import ComputeDevice, MemoryBudget, memory_total_bytes, usual_cards
from llb.hub import HubClient
from llb.policy import memory, placement
from llb.policy.memory import NEUTRAL, FitRequest, MemoryCalibration, ModelShape, report_fit
from llb.store.database import Database
from llb.store.tables import header_cache
from llb.texts.coded_text import CodedText
from llb.wire import Capability, FileSpec, FitReport, MemoryView, Model
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

METADATA_TIMEOUT_S = 2.0
POOLING_CAPABILITIES = frozenset({Capability.EMBEDDING, Capability.RERANKING})


class MemoryEstimates:
    """Estimator of the memory that a model needs for a context length and a number of slots."""

    def __init__(
        self,
        db: Database,
        hub_client: HubClient,
        view: ClusterView,
        registrations: Registrations,
        *,
        get_own_capacity: Callable[[], tuple[MemoryBudget, tuple[ComputeDevice, ...]] | None],
        get_calibration: Callable[[str, ModelShape], MemoryCalibration],
        get_llama_build: Callable[[], int | None],
        slots: int,
        context_length: int | None,
    ) -> None:
        """`slots` and `context_length` are the settings of this host's engines."""
        self._db = db
        self._hub = hub_client
        self._view = view
        self._registrations = registrations
        self._get_own_capacity = get_own_capacity
        self._get_calibration = get_calibration
        self._get_llama_build = get_llama_build
        self._slots = slots
        self._context_length = context_length

    def set_load_defaults(self, *, slots: int, context_length: int | None) -> None:
        """Set slots and context length of this host's engines."""
        self._slots, self._context_length = slots, context_length

    async def estimate_model(self, model: Model, *, context_length: int | None, slots: int) -> MemoryView:
        """Bytes that an engine with `slots` slots of `context_length` tokens needs, and where it fits.

        Raises `HubUnavailable`, and `InvalidRequest` if the header is missing or invalid.
        """
        shape = await self._get_shape(model)
        pooled = bool(POOLING_CAPABILITIES & set(model.capabilities))
        effective_length = min(
            context_length or memory.DEFAULT_CONTEXT, shape.context_length or memory.DEFAULT_CONTEXT
        )
        estimate = memory.estimate_memory(shape, context_length=effective_length, slots=slots, pooled=pooled)
        return MemoryView(
            model_id=model.id,
            context_length=effective_length,
            trained_context_length=shape.context_length,
            slots=slots,
            weights_bytes=estimate.weights.total_bytes,
            kv_cache_bytes=estimate.kv_cache.total_bytes,
            compute_bytes=estimate.compute.total_bytes,
            other_bytes=estimate.output_bytes + estimate.checkpoint_bytes + estimate.overhead.total_bytes,
            total_bytes=estimate.total_bytes,
            fit=placement.check_fit(estimate.total_bytes, self._view.node_capacities(model.id)),
        )

    async def report_fit(
        self,
        model: Model,
        *,
        ram_bytes: int | None,
        vram_bytes: tuple[int, ...] | None,
        context_length: int | None,
        slots: int | None,
        lists_cards: bool = False,
        counts_drafts: bool = True,
    ) -> FitReport:
        """What this host would do with the model, or a host with this RAM and these GPUs.

        `lists_cards`: also on GPUs of usual sizes. `counts_drafts`: with its draft model, which changes
        neither its context nor its layers. Raises as `estimate_model`, and `NoNodeAvailable` before the
        hardware of this host is known.
        """
        capacity = self._get_own_capacity()
        if capacity is None:
            raise errors.NoNodeAvailable("The hardware of this host is being probed: try again in a moment.")
        budget, gpus = capacity
        devices = tuple((gpu.description or gpu.name, gpu.kind) for gpu in gpus)
        if ram_bytes is not None or vram_bytes is not None:
            sizes = vram_bytes or ()
            budget = MemoryBudget.of_described_host(ram_bytes or memory_total_bytes(), sizes)
            devices = tuple((f"GPU{index}", "gpu") for index in range(len(sizes)))
        shape = await self._get_shape(model)
        is_own_host = ram_bytes is None and vram_bytes is None
        request = FitRequest(
            model=model.id,
            shape=shape,
            slots=slots or self._slots,
            context_length=context_length or self._context_length,
            pooled=bool(POOLING_CAPABILITIES & set(model.capabilities)),
            calibration=self._get_calibration(model.id, shape) if is_own_host else NEUTRAL,
            llama_build=self._get_llama_build(),
            cards=usual_cards() if lists_cards else (),
            draft_id=model.draft,
            draft_shape=await self._find_draft_shape(model, is_own_host=is_own_host)
            if counts_drafts
            else None,
            speculation=model.speculation,
        )
        return report_fit(request, budget.free_memory(), devices)

    async def plan_context_length(self, model: Model) -> int | None:
        """Return the tokens per slot of the engine that this host would load; None if that is not known."""
        try:
            async with asyncio.timeout(METADATA_TIMEOUT_S):
                report = await self.report_fit(
                    model,
                    ram_bytes=None,
                    vram_bytes=None,
                    context_length=None,
                    slots=None,
                    counts_drafts=False,
                )
        except (TimeoutError, errors.LlbError):
            return None
        return report.context_length or None

    async def _find_draft_shape(self, model: Model, *, is_own_host: bool) -> ModelShape | None:
        """Return the shape of the draft model; None without one, and where its header cannot be read.

        This host has it only if it is pulled; a described host has it.
        """
        draft = None if model.draft is None else self._view.get_model(model.draft)
        if draft is None:
            return None
        registered = self._view.registrations.get(draft.id)
        if is_own_host and (registered is None or not registered.is_active):
            return None
        try:
            return await self._get_shape(draft)
        except errors.LlbError:
            return None

    async def _get_shape(self, model: Model) -> ModelShape:
        files = await self._registrations.known_files(model)
        try:
            return gguf.build_model_shape([await self._get_file_metadata(spec) for spec in files])
        except gguf.GgufError as error:
            raise errors.InvalidRequest(
                CodedText(
                    "memory_unknown",
                    "The memory of model '{model}' cannot be estimated: {cause}",
                    model=model.id,
                    cause=error.message,
                )
            ) from None
        except hub.HubUnreachable as error:
            raise errors.HubUnavailable(
                CodedText(
                    "header_unreadable",
                    "The header of model '{model}' cannot be read: {cause}",
                    model=model.id,
                    cause=error.message,
                )
            ) from None
        except hub.HubError as failure:
            raise errors.InvalidRequest(
                CodedText(
                    "header_unreadable",
                    "The header of model '{model}' cannot be read: {cause}",
                    model=model.id,
                    cause=failure.message,
                )
            ) from None

    async def get_model_metadata(self, model: Model) -> GgufMetadata | None:
        """Metadata of a registered model's first file; None if not available within `METADATA_TIMEOUT_S`."""
        registered = self._view.registrations.get(model.id)
        if registered is None or not registered.resolved:
            return None
        try:
            async with asyncio.timeout(METADATA_TIMEOUT_S):
                return await self._get_file_metadata(registered.resolved[0])
        except (TimeoutError, gguf.GgufError, hub.HubError):
            return None

    async def _get_file_metadata(self, spec: FileSpec) -> GgufMetadata:
        """Metadata of one file, from the cache or with one ranged request (two for a large vocabulary)."""
        cached = await header_cache.get(self._db, spec.sha256)
        if cached is not None:
            # An entry of another version of llb may not decode: it is replaced.
            with suppress(*DECODE_ERRORS):
                return msgspec.json.decode(cached, type=GgufMetadata)
        metadata = await self._fetch_metadata(spec)
        try:
            async with self._db.write() as tx:
                await header_cache.put(tx, spec.sha256, msgspec.json.encode(metadata))
        except sqlite3.Error as error:
            # The next estimate fetches the header again.
            log.warning("the header of %s could not be cached: %s", spec.name, error)
        return metadata

    async def _fetch_metadata(self, spec: FileSpec) -> GgufMetadata:
        source = spec.sources[0]
        length = min(gguf.INITIAL_READ_BYTES, spec.size_bytes)
        while True:
            prefix = await self._hub.read_range(source.repo, source.commit, spec.name, 0, length)
            try:
                return await asyncio.to_thread(
                    gguf.read_metadata, io.BytesIO(prefix), file_size=spec.size_bytes
                )
            except gguf.NeedMoreData as more:
                if more.size_bytes <= length:
                    raise gguf.GgufError("it is truncated") from None
                length = more.size_bytes
