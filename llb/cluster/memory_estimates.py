"""The memory a model would need, also before it is pulled: from its GGUF header, fetched once a file and kept."""

from __future__ import annotations

import asyncio
import io

import msgspec

from llb import errors, gguf, hub
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.gguf import GgufMetadata
from llb.hub import HubClient
from llb.policy import memory, placement
from llb.store.database import Database
from llb.store.tables import header_cache
from llb.wire import Capability, FileSpec, MemoryView, Model
from llb.wire.decoding import DECODE_ERRORS

METADATA_TIMEOUT_S = 2.0
POOLING_CAPABILITIES = frozenset({Capability.EMBEDDING, Capability.RERANKING})


class MemoryEstimates:
    """Answers how much memory a model needs for a context and a number of slots."""

    def __init__(
        self, db: Database, hub_client: HubClient, view: ClusterView, registrations: Registrations
    ) -> None:
        self._db = db
        self._hub = hub_client
        self._view = view
        self._registrations = registrations

    async def estimate_model(self, model: Model, *, context_length: int | None, slots: int) -> MemoryView:
        """What an engine with `slots` of `context_length` tokens needs, and where it fits best.

        Raises `HubAway`, and `InvalidRequest` when the header cannot be had or is none.
        """
        registered = self._view.registrations.get(model.id)
        files = registered.resolved if registered is not None else None
        if files is None:
            files = await self._registrations.resolve_files(model)
        try:
            shape = gguf.build_model_shape([await self._get_file_metadata(spec) for spec in files])
        except gguf.GgufError as refused:
            raise errors.InvalidRequest(f"Model '{model.id}' cannot be estimated: {refused}") from None
        except hub.HubUnreachable as away:
            raise errors.HubUnavailable(f"The header of model '{model.id}' cannot be read: {away}") from None
        except hub.HubError as failure:
            raise errors.InvalidRequest(
                f"The header of model '{model.id}' cannot be read: {failure}"
            ) from None
        pooled = bool(POOLING_CAPABILITIES & set(model.capabilities))
        wanted = min(context_length or memory.DEFAULT_CONTEXT, shape.context_length or memory.DEFAULT_CONTEXT)
        need = memory.estimate_memory(shape, context_length=wanted, slots=slots, pooled=pooled)
        return MemoryView(
            model_id=model.id,
            context_length=wanted,
            trained_context_length=shape.context_length,
            slots=slots,
            weights_bytes=need.weights.total_bytes,
            kv_cache_bytes=need.kv_cache.total_bytes,
            compute_bytes=need.compute.total_bytes,
            other_bytes=need.output_bytes + need.checkpoint_bytes + need.overhead.total_bytes,
            total_bytes=need.total_bytes,
            fit=placement.check_fit(need.total_bytes, self._view.node_capacities(model.id)),
        )

    async def get_model_metadata(self, model: Model) -> GgufMetadata | None:
        """What the header of a registered model's first file says; None where it cannot be had within `FACTS_WAIT_S`."""
        registered = self._view.registrations.get(model.id)
        if registered is None or not registered.resolved:
            return None
        try:
            async with asyncio.timeout(METADATA_TIMEOUT_S):
                return await self._get_file_metadata(registered.resolved[0])
        except (TimeoutError, gguf.GgufError, hub.HubError):
            return None

    async def _get_file_metadata(self, spec: FileSpec) -> GgufMetadata:
        """The header's facts of one file, from the database or by one ranged request (two for a large vocabulary)."""
        kept = await header_cache.get(self._db, spec.sha256)
        if kept is not None:
            try:
                return msgspec.json.decode(kept, type=GgufMetadata)
            except DECODE_ERRORS:
                pass  # written by another version: read anew
        facts = await self._fetch_metadata(spec)
        async with self._db.write() as tx:
            await header_cache.put(tx, spec.sha256, msgspec.json.encode(facts))
        return facts

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
