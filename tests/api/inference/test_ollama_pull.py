"""Pulls in Ollama's dialect: which are begun, and how their progress and their end are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.api.inference import ollama_pull
from llb.api.inference.ollama_pull import PullFollower
from llb.base.events import EventBus
from llb.cluster.view import ClusterView
from llb.errors import AlreadyRegistered, InsufficientResources
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Event, ModelStatus, ModelStatusChanged, Role
from tests.api.inference.test_call_builder import MODEL

PRINCIPAL = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)


class Pulls(PullFollower):
    """Pulls of one model, whose status the test sets; nothing ends their principal."""

    def __init__(self, *, refusal: Exception | None = None) -> None:
        self.status = ModelStatus.AVAILABLE
        self.registered: list[str] = []
        self.bus: EventBus[Event] = EventBus()
        self._refusal = refusal
        view = SimpleNamespace(
            status_of=lambda _model_id: SimpleNamespace(status=self.status),
            build_status_event=lambda _model_id: self.event(),
            registrations={},
            replicas_of=lambda _model_id: [],
        )
        super().__init__(
            cast(ClusterView, view),
            self.bus,
            cast(Any, SimpleNamespace(register=self._register)),
            cast(Any, SimpleNamespace(recording=self._recording)),
            cast(Any, SimpleNamespace(open=self._open)),
        )

    async def _register(self, model_id: str, **_options: Any) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.registered.append(model_id)

    @asynccontextmanager
    async def _recording(self, *_arguments: Any) -> AsyncIterator[None]:
        yield

    def _open(self, _principal: Principal) -> Any:
        return _Work()

    def event(self, **fields: Any) -> ModelStatusChanged:
        return ModelStatusChanged(model_id=MODEL.id, status=self.status, **fields)

    async def start(self) -> None:
        request = SimpleNamespace(ctx=SimpleNamespace(principal=PRINCIPAL))
        await self.start_pull(cast(Any, request), MODEL)


class _Work:
    """Work that is not ended."""

    error = None

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_error: object) -> None: ...

    async def run_until_ended(self, coroutine: Any) -> Any:
        return await coroutine


@pytest.mark.parametrize("status", ModelStatus)
async def test_only_a_model_that_is_not_there_is_registered(status: ModelStatus) -> None:
    pulls = Pulls()
    pulls.status = status
    await pulls.start()
    assert bool(pulls.registered) is (status in (ModelStatus.AVAILABLE, ModelStatus.ERROR))


async def test_another_client_may_have_been_faster() -> None:
    await Pulls(refusal=AlreadyRegistered(MODEL.id)).start()
    with pytest.raises(InsufficientResources):
        await Pulls(refusal=InsufficientResources("no room")).start()


@pytest.mark.parametrize(
    ("status", "last"),
    [
        (ModelStatus.READY, {"status": "success"}),
        (ModelStatus.AVAILABLE, {"error": "The pull of model 'smollm2' was cancelled"}),
        (ModelStatus.ERROR, {"error": "Model 'smollm2' could not be pulled: no space"}),
    ],
)
async def test_the_end_of_a_pull_ends_its_progress(
    monkeypatch: pytest.MonkeyPatch, status: ModelStatus, last: dict[str, str]
) -> None:
    monkeypatch.setattr(ollama_pull, "model_digest", lambda _view, _model_id: "abc" * 20)
    pulls = Pulls()
    pulls.status = ModelStatus.REGISTERED
    follower = pulls.follow(MODEL, PRINCIPAL)
    assert await anext(follower) == {"status": "pulling manifest"}
    pulls.status = ModelStatus.DOWNLOADING
    # Those of other models are none of it.
    pulls.bus.publish(ModelStatusChanged(model_id="other", status=status))
    pulls.bus.publish(pulls.event(downloaded_bytes=5, total_bytes=10))
    assert await anext(follower) == {
        "status": "pulling abcabcabcabc", "digest": f"sha256:{'abc' * 20}", "total": 10, "completed": 5
    }  # fmt: skip
    pulls.status = status
    pulls.bus.publish(pulls.event(error="no space" if status is ModelStatus.ERROR else None))
    assert [each async for each in follower] == [last]


async def test_silence_is_told_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_pull, "KEEPALIVE_INTERVAL_S", 0.0)
    pulls = Pulls()
    pulls.status = ModelStatus.REGISTERED
    follower = pulls.follow(MODEL, PRINCIPAL)
    await anext(follower)
    assert await anext(follower) is None
    await cast(Any, follower).aclose()
