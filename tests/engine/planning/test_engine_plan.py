"""Engine plans of real files, through the pool to the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.engine.planning.engine_plan import EngineFiles, EnginePlanner
from llb.engine.pool import EnginePool
from llb.engine.spec import EngineKind, EngineSpec, PoolingType, WorkerReady
from llb.errors import InsufficientMemory, ModelFailed
from llb.hardware import MemoryBudget, physical_core_count
from llb.policy.memory import FreeMemory
from llb.wire import Capability, EngineReport
from tests.engine.test_worker import ask
from tests.engine.workers import fake_worker
from tests.ggufs import write_chat_model, write_embedding_model

GB = 10**9


def plan(files: EngineFiles, *, context: int | None = None, free: FreeMemory | None = None) -> EngineSpec:
    planner = EnginePlanner(slots=2, context=context)
    planned = planner.plan_engine("m", files, planner.read_metadata(files), free or FreeMemory(8 * GB))
    assert planned is not None
    assert planned.memory.total_bytes > 0
    assert (free or FreeMemory(8 * GB)).covers(planned.memory)
    return planned.spec


def test_a_chat_model(tmp_path: Path) -> None:
    spec = plan(EngineFiles(model_path=write_chat_model(tmp_path / "m.gguf", context=4096)), context=1024)
    assert (spec.kind, spec.pooling, spec.alias) == (EngineKind.CHAT, None, "m")
    assert (spec.context_length, spec.slots, spec.gpu_layers) == (1024, 2, ())
    assert spec.threads == physical_core_count()
    assert spec.projector_path is None


def test_the_memory_of_a_process_without_gpu_is_limited_by_its_plan(tmp_path: Path) -> None:
    files = EngineFiles(model_path=write_chat_model(tmp_path / "m.gguf"))
    planner = EnginePlanner(slots=2, context=None)
    planned = planner.plan_engine("m", files, planner.read_metadata(files), FreeMemory(8 * GB))
    assert planned is not None
    limit = planned.spec.data_limit_bytes
    assert limit is not None
    assert planned.memory.ram_bytes < limit < 2 * planned.memory.ram_bytes + 2 * GB
    # The driver of a GPU reserves memory of the process that no plan counts.
    assert plan(files, free=FreeMemory(8 * GB, (8 * GB,))).data_limit_bytes is None


def test_each_load_has_a_key_of_its_own(tmp_path: Path) -> None:
    files = EngineFiles(model_path=write_chat_model(tmp_path / "m.gguf"))
    keys = {plan(files).api_key for _ in range(3)}
    assert len(keys) == 3
    assert min(map(len, keys)) >= 32


def test_an_embedding_model_pools_as_its_file_says_or_by_the_mean(tmp_path: Path) -> None:
    embedding = (Capability.EMBEDDING,)
    told = EngineFiles(model_path=write_embedding_model(tmp_path / "e.gguf"), capabilities=embedding)
    untold = EngineFiles(model_path=write_chat_model(tmp_path / "m.gguf"), capabilities=embedding)
    assert (plan(told).kind, plan(told).pooling) == (EngineKind.EMBEDDING, None)
    assert plan(untold).pooling is PoolingType.MEAN
    # An encoder cannot split its input: a batch must hold a complete context.
    assert plan(told).ubatch_tokens >= plan(told).context_length


def test_a_gpu_with_room_takes_all_layers(tmp_path: Path) -> None:
    files = EngineFiles(model_path=write_chat_model(tmp_path / "m.gguf", layers=4))
    assert plan(files, free=FreeMemory(8 * GB, (8 * GB,))).gpu_layers == (5,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "its file cannot be read: No such file or directory"),
        (b"<html>" * 100, "its file cannot be used: "),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFailed) as caught:
        EnginePlanner(slots=2, context=None).read_metadata(EngineFiles(model_path=path))
    assert caught.value.message.startswith(message)
    assert str(tmp_path) not in caught.value.message


async def test_a_second_model_takes_the_other_gpu(tmp_path: Path) -> None:
    """The smallest GPU is the best for both; the second model evicts nothing while the larger GPU is free."""
    model = write_chat_model(tmp_path / "chat.gguf")
    budget = MemoryBudget(8 * GB, (GB, GB + GB // 50))
    pool = EnginePool(slots=2, context=512, keep_alive_s=-1, budget=budget, command=fake_worker())
    for model_id in ("first", "second", "third"):
        pool.add_model(model_id, EngineFiles(model_path=model))
    try:
        for model_id in ("first", "second"):
            (await pool.acquire_lease(model_id, deadline_s=60)).release()
        assert {report.model_id for report in pool.engine_reports()} == {"first", "second"}
        assert all(pool.used_memory().vram_bytes)
        # With both GPUs taken, the least recently used engine makes room.
        (await pool.acquire_lease("third", deadline_s=60)).release()
        assert {report.model_id for report in pool.engine_reports()} == {"second", "third"}
    finally:
        await pool.close()


async def test_the_pool_runs_real_engines(tmp_path: Path) -> None:
    reports: list[EngineReport] = []
    pool = EnginePool(slots=2, context=512, keep_alive_s=-1, budget=MemoryBudget(8 * GB))
    pool.engine_changed.subscribe(reports.append)
    chat = write_chat_model(tmp_path / "chat.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(chat.read_bytes()[:-2000])
    pool.add_model("chat", EngineFiles(model_path=chat))
    pool.add_model("cut", EngineFiles(model_path=cut))
    pool.add_model(
        "vectors",
        EngineFiles(
            model_path=write_embedding_model(tmp_path / "e.gguf"), capabilities=(Capability.EMBEDDING,)
        ),
    )
    try:
        async with await pool.acquire_lease("chat", deadline_s=60) as lease:
            where = WorkerReady(host=lease.worker.host, port=lease.worker.port, context_length=0, slots=0)
            key = {"Authorization": f"Bearer {lease.api_key}"}
            reply = ask(where, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 2}, key)
            assert (reply.status, reply.json()["model"]) == (200, "chat")
        async with await pool.acquire_lease("vectors", deadline_s=60) as lease:
            where = WorkerReady(host=lease.worker.host, port=lease.worker.port, context_length=0, slots=0)
            key = {"Authorization": f"Bearer {lease.api_key}"}
            assert ask(where, "POST", "/v1/embeddings", {"input": "a"}, key).status == 200
        with pytest.raises(ModelFailed, match="truncated"):
            await pool.acquire_lease("cut", deadline_s=60)
        assert {report.model_id for report in pool.engine_reports()} == {"chat", "vectors"}
        await pool.unload("chat")
        await pool.unload("vectors")
        pool.set_budget(MemoryBudget(1_000_000))
        with pytest.raises(InsufficientMemory, match="Insufficient VRAM"):
            await pool.acquire_lease("chat", deadline_s=60)
    finally:
        await pool.close()
