"""The memory a model would need, also before it is pulled: from its GGUF header, fetched once a file and kept."""

from __future__ import annotations

import asyncio
import io

import msgspec

from llb import errors, gguf, hub
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.decide import memory, placement
from llb.gguf import GgufFacts
from llb.hub import Hub
from llb.store import file_facts
from llb.store.database import Database
from llb.wire import Capability, FileSpec, MemoryView, Model
from llb.wire.reading import UNREADABLE

FACTS_WAIT_S = 2.0
POOLED = frozenset({Capability.EMBEDDING, Capability.RERANKING})


class Estimates:
    """Answers how much memory a model needs for a context and a number of slots."""

    def __init__(self, db: Database, hub_: Hub, view: ClusterView, registrations: Registrations) -> None:
        self._db = db
        self._hub = hub_
        self._view = view
        self._registrations = registrations

    async def of(self, model: Model, *, context_length: int | None, slots: int) -> MemoryView:
        """What an engine with `slots` of `context_length` tokens needs, and where it fits best.

        Raises `HubAway`, and `InvalidRequest` when the header cannot be had or is none.
        """
        registered = self._view.registrations.get(model.id)
        files = registered.resolved if registered is not None else None
        if files is None:
            files = await self._registrations.pins(model)
        try:
            shape = gguf.shape_of([await self._facts(spec) for spec in files])
        except gguf.GgufError as refused:
            raise errors.InvalidRequest(f"Model '{model.id}' cannot be estimated: {refused}") from None
        except hub.HubUnreachable as away:
            raise errors.HubAway(f"The header of model '{model.id}' cannot be read: {away}") from None
        except hub.HubError as failure:
            raise errors.InvalidRequest(
                f"The header of model '{model.id}' cannot be read: {failure}"
            ) from None
        pooled = bool(POOLED & set(model.capabilities))
        wanted = min(context_length or memory.DEFAULT_CONTEXT, shape.context_length or memory.DEFAULT_CONTEXT)
        need = memory.estimate(shape, context_length=wanted, slots=slots, pooled=pooled)
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
            fit=placement.fit(need.total_bytes, self._view.rooms(model.id)),
        )

    async def facts(self, model: Model) -> GgufFacts | None:
        """What the header of a registered model's first file says; None where it cannot be had within `FACTS_WAIT_S`."""
        registered = self._view.registrations.get(model.id)
        if registered is None or not registered.resolved:
            return None
        try:
            async with asyncio.timeout(FACTS_WAIT_S):
                return await self._facts(registered.resolved[0])
        except (TimeoutError, gguf.GgufError, hub.HubError):
            return None

    async def _facts(self, spec: FileSpec) -> GgufFacts:
        """The header's facts of one file, from the database or by one ranged request (two for a large vocabulary)."""
        kept = await file_facts.get(self._db, spec.sha256)
        if kept is not None:
            try:
                return msgspec.json.decode(kept, type=GgufFacts)
            except UNREADABLE:
                pass  # written by another version: read anew
        facts = await self._fetch(spec)
        async with self._db.write() as tx:
            await file_facts.put(tx, spec.sha256, msgspec.json.encode(facts))
        return facts

    async def _fetch(self, spec: FileSpec) -> GgufFacts:
        source = spec.sources[0]
        length = min(gguf.PREFIX_BYTES, spec.size_bytes)
        while True:
            prefix = await self._hub.read_range(source.repo, source.commit, spec.name, 0, length)
            try:
                return await asyncio.to_thread(
                    gguf.read_header, io.BytesIO(prefix), file_size=spec.size_bytes
                )
            except gguf.NeedMore as more:
                if more.size_bytes <= length:
                    raise gguf.GgufError("it is truncated") from None
                length = more.size_bytes
