"""Views of models: memory of the loaded engines, what a cancelled download left, urgent changes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from llb.cluster.model_views import build_node_model, describe_memory, describe_partial, urgent_part_of
from llb.wire import (
    EngineReport,
    EngineState,
    Model,
    ModelMemory,
    NodeModel,
    NodeStatusChanged,
    ReplicaReport,
    ReplicaState,
)

MODEL = Model(
    id="tiny", name="Tiny", repo="o/t", recommended_filename="t.gguf", size_bytes=1, required_memory_bytes=50
)


def engine(state: EngineState = EngineState.READY, **more: Any) -> EngineReport:
    fields: dict[str, Any] = {"memory_bytes": 100, "slots": 2, "used_bytes": 80, "context_length": 512}
    return EngineReport(model_id="tiny", state=state, **{**fields, **more})


@pytest.mark.parametrize(
    ("engines", "memory"),
    [
        ((), ModelMemory(minimum_bytes=50)),
        ((None, engine(memory_bytes=0)), ModelMemory(minimum_bytes=50)),
        (
            (engine(), None),
            ModelMemory(minimum_bytes=50, reserved_bytes=100, used_bytes=80, slots=2, context_length=512),
        ),
        (
            (engine(), engine(EngineState.BUSY, slots=4, context_length=256)),
            ModelMemory(minimum_bytes=50, reserved_bytes=200, used_bytes=160, slots=6, context_length=256),
        ),
        # An engine that starts has reserved its memory, and serves nothing.
        (
            (engine(), engine(EngineState.STARTING, slots=4, used_bytes=None)),
            ModelMemory(minimum_bytes=50, reserved_bytes=200, slots=2, context_length=512),
        ),
        ((engine(EngineState.STARTING),), ModelMemory(minimum_bytes=50, reserved_bytes=100)),
    ],
)
def test_memory_of_a_model(engines: tuple[EngineReport | None, ...], memory: ModelMemory) -> None:
    assert describe_memory(MODEL, engines) == memory


def test_what_a_cancelled_download_left() -> None:
    assert describe_partial(100, []) is None
    left = describe_partial(100, [("n1", "attic", 60), ("n2", "garage", 120)])
    assert left is not None
    # No more than there is, and on the disks what is there.
    assert (left.downloaded_bytes, left.total_bytes, left.disk_bytes) == (100, 100, 180)
    assert [(copy.node_name, copy.size_bytes) for copy in left.nodes] == [("attic", 60), ("garage", 120)]


def replica(state: ReplicaState, **more: Any) -> ReplicaReport:
    return ReplicaReport(model_id="tiny", attempt=1, state=state, **more)


def test_a_ready_model_has_the_state_of_its_engine_and_no_other_has() -> None:
    assert build_node_model(replica(ReplicaState.READY), None) == NodeModel("tiny", "ready")
    loaded = build_node_model(replica(ReplicaState.READY), engine(EngineState.STARTING, progress=0.5))
    assert loaded == NodeModel("tiny", "starting", engine=EngineState.STARTING, engine_progress=0.5)
    # A model that is fetched anew while the old engine serves.
    fetched = build_node_model(replica(ReplicaState.VERIFYING, total_bytes=9), engine())
    assert (fetched.lifecycle_status, fetched.engine) == ("verifying", EngineState.READY)
    assert fetched.download is not None
    assert fetched.download.total_bytes == 9
    assert build_node_model(replica(ReplicaState.WANTED), None).download is None


def event(*models: NodeModel) -> NodeStatusChanged:
    fields: dict[str, Any] = dict.fromkeys(NodeStatusChanged.__struct_fields__)
    return NodeStatusChanged(**{**fields, "models": models})


def test_progress_is_not_urgent_and_what_a_download_waits_for_is() -> None:
    first = build_node_model(replica(ReplicaState.DOWNLOADING, downloaded_bytes=1), None)
    second = build_node_model(replica(ReplicaState.DOWNLOADING, downloaded_bytes=2), None)
    waiting = build_node_model(replica(ReplicaState.DOWNLOADING, error="the disk is full"), None)
    assert event(first) != event(second)
    assert urgent_part_of(event(first)) == urgent_part_of(event(second))
    assert urgent_part_of(event(first)) != urgent_part_of(event(waiting))
    assert urgent_part_of(event(first)) != urgent_part_of(event())
    assert urgent_part_of(event(first)) != urgent_part_of(structs.replace(event(first), name="other"))
