"""Drafts: which engines get a draft model or draft for themselves, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from llb.engine.diagnosis import FailureDiagnosis, FailureKind
from llb.engine.planning.engine_plan import EngineFiles, EnginePlanner
from llb.engine.pool import EnginePool
from llb.engine.spec import EngineSpec
from llb.engine.worker import build_llama_params
from llb.hardware import MemoryBudget
from llb.texts.coded_text import CodedText
from llb.wire import DraftReport, DraftState, EngineState, Speculation
from tests.engine.test_worker import ask
from tests.engine.workers import fake_worker
from tests.ggufs import write_chat_model, write_hybrid_model

GIB = 2**30
WAIT_S = 60.0
MakePool = Callable[..., EnginePool]


@pytest_asyncio.fixture
async def make_pool(tmp_path: Path) -> AsyncIterator[MakePool]:
    """A pool of a model `big` and its draft `small`, with fake workers unless `command` is None."""
    pools: list[EnginePool] = []
    big = write_chat_model(tmp_path / "big.gguf")

    def make(*worker: str, is_real: bool = False, vocab: int = 320) -> EnginePool:
        pool = EnginePool(
            slots=1,
            context=512,
            keep_alive_s=-1,
            budget=MemoryBudget(4 * GIB),
            planner=EnginePlanner(slots=1, context=512),
            command=None if is_real else fake_worker(*worker),
        )
        pools.append(pool)
        pool.set_draft("big", "small")
        pool.add_model("big", EngineFiles(model_path=big))
        path = write_chat_model(tmp_path / "small.gguf", layers=1, vocab=vocab)
        pool.add_model("small", EngineFiles(model_path=path))
        return pool

    yield make
    for pool in pools:
        await pool.close()


@pytest_asyncio.fixture
async def make_speculating_pool(tmp_path: Path) -> AsyncIterator[MakePool]:
    """A pool of a model `big` that drafts for itself; with heads, it foresees its own answers."""
    pools: list[EnginePool] = []

    def make(
        speculation: Speculation, *worker: str, is_real: bool = False, has_head: bool = True
    ) -> EnginePool:
        pool = EnginePool(
            slots=1,
            context=512,
            keep_alive_s=-1,
            budget=MemoryBudget(4 * GIB),
            planner=EnginePlanner(slots=1, context=512),
            command=None if is_real else fake_worker(*worker),
        )
        pools.append(pool)
        pool.set_draft("big", None, speculation)
        if has_head:
            path = write_hybrid_model(tmp_path / "head.gguf", mtp_layers=1, cyclic=True)
        else:
            path = write_chat_model(tmp_path / "none.gguf")
        pool.add_model("big", EngineFiles(model_path=path))
        return pool

    yield make
    for pool in pools:
        await pool.close()


async def draft_of(pool: EnginePool) -> DraftReport | None:
    """Load `big` and return the report of its draft."""
    async with await pool.acquire_lease("big", deadline_s=WAIT_S):
        [report] = [each for each in pool.engine_reports() if each.model_id == "big"]
        return report.draft


def report(state: DraftState) -> DraftReport:
    return DraftReport(model_id="small", state=state)


def own_report(speculation: Speculation, state: DraftState) -> DraftReport:
    return DraftReport(model_id="big", state=state, speculation=speculation)


async def test_a_draft_is_used_where_it_is_and_its_memory_is_counted(make_pool: MakePool) -> None:
    pool = make_pool()
    assert await draft_of(pool) == report(DraftState.USED)
    with_draft = pool.used_memory()
    pool.set_draft("big", None)
    await pool.unload("big")
    assert await draft_of(pool) is None
    assert pool.used_memory().ram_bytes < with_draft.ram_bytes


async def test_a_draft_that_is_removed_is_left_and_one_that_comes_is_used(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    assert await draft_of(pool) == report(DraftState.USED)
    await pool.remove_model("small", grace_s=0)
    # Its file is no longer open.
    assert not pool.engine_reports()
    assert await draft_of(pool) == report(DraftState.MISSING)
    pool.add_model("small", EngineFiles(model_path=tmp_path / "small.gguf"))
    await pool.unload("big")
    assert await draft_of(pool) == report(DraftState.USED)


async def test_a_draft_that_is_no_longer_named_is_told_until_the_engine_ends(make_pool: MakePool) -> None:
    pool = make_pool()
    assert await draft_of(pool) == report(DraftState.USED)
    pool.set_draft("big", "other")
    assert await draft_of(pool) == report(DraftState.USED)
    # Its file is open.
    await pool.remove_model("small", grace_s=0)
    assert not pool.engine_reports()
    assert await draft_of(pool) == DraftReport(model_id="other", state=DraftState.MISSING)


async def test_requests_of_a_model_end_before_its_draft_is_removed(make_pool: MakePool) -> None:
    pool = make_pool()
    async with await pool.acquire_lease("big", deadline_s=WAIT_S):
        removal = asyncio.create_task(pool.remove_model("small", grace_s=0))
        # Turns of the loop, in which the removal begins.
        for _ in range(20):
            await asyncio.sleep(0)
        assert [each.state for each in pool.engine_reports() if each.model_id == "big"] == [EngineState.BUSY]
        assert not removal.done()
    await removal
    assert not pool.engine_reports()


async def test_an_engine_that_fails_with_a_draft_is_loaded_without(make_pool: MakePool) -> None:
    assert await draft_of(make_pool("--refuse-draft")) == report(DraftState.FAILED)


async def test_the_failure_of_an_engine_with_an_earlier_draft_is_not_that_of_the_next(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    assert await draft_of(pool) == report(DraftState.USED)
    pool.set_draft("big", None, Speculation.NGRAM)
    engine = pool._engines["big"]
    failure = FailureDiagnosis(
        FailureKind.TIMEOUT, CodedText("engine_silent", "the engine stopped answering")
    )
    await engine.process.kill(failure)
    assert engine.process.state is EngineState.FAILED
    assert not engine.has_draft_failed


async def test_what_is_read_of_a_draft_is_not_taken_for_the_next(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool()
    engine = pool._engines["big"]

    def has_same_vocabulary(*_: object) -> bool:
        pool.set_draft("big", "other")
        return True

    monkeypatch.setattr(pool._planner, "has_same_vocabulary", has_same_vocabulary)
    await pool._drafts.read(engine)
    assert engine.is_draft_compatible is None


async def test_another_vocabulary_drafts_nothing(make_pool: MakePool) -> None:
    assert await draft_of(make_pool(vocab=600)) == report(DraftState.VOCABULARY)


async def test_a_damaged_draft_does_not_keep_the_model_from_loading(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    assert await draft_of(pool) == report(DraftState.MISSING)


async def answer_of(pool: EnginePool, prompt: str) -> dict[str, Any]:
    """Load `big`, return its answer, and unload it."""
    body = {"prompt": prompt, "n_predict": 24, "temperature": 0, "ignore_eos": True}
    async with await pool.acquire_lease("big", deadline_s=WAIT_S):
        engine = pool._engines["big"]
        assert engine.process.ready is not None
        assert engine.process.spec is not None
        headers = {"Authorization": f"Bearer {engine.process.spec.api_key}"}
        answer: dict[str, Any] = ask(engine.process.ready, "POST", "/completion", body, headers).json()
    await pool.unload("big")
    return answer


async def test_the_real_engine_drafts_and_answers_the_same(make_pool: MakePool) -> None:
    pool = make_pool(is_real=True)
    drafted = await answer_of(pool, "Once")
    pool.set_draft("big", None)
    plain = await answer_of(pool, "Once")
    assert drafted["timings"]["draft_n"] > 0
    assert "draft_n" not in plain["timings"]
    assert drafted["content"] == plain["content"]


async def test_the_real_engine_drafts_with_the_head_of_its_model(make_speculating_pool: MakePool) -> None:
    pool = make_speculating_pool(Speculation.MTP, is_real=True)
    drafted = await answer_of(pool, "A")
    assert drafted["content"] == "BCDEFGHIJKLMNOPQRSTUVWXY"
    assert drafted["timings"]["draft_n_accepted"] == drafted["timings"]["draft_n"] > 0
    pool.set_draft("big", None)
    plain = await answer_of(pool, "A")
    assert plain["content"] == drafted["content"]
    assert "draft_n" not in plain["timings"]


@pytest.mark.parametrize("speculation", Speculation)
async def test_a_model_that_drafts_for_itself_has_more_memory_planned(
    make_speculating_pool: MakePool, speculation: Speculation
) -> None:
    pool = make_speculating_pool(speculation, has_head=speculation is Speculation.MTP)
    assert await draft_of(pool) == own_report(speculation, DraftState.USED)
    drafting = pool.used_memory()
    pool.set_draft("big", None)
    await pool.unload("big")
    assert await draft_of(pool) is None
    assert pool.used_memory().ram_bytes < drafting.ram_bytes


@pytest.mark.parametrize("speculation", Speculation)
async def test_a_model_that_cannot_draft_for_itself_is_loaded_without(
    make_speculating_pool: MakePool, speculation: Speculation
) -> None:
    # No head; and recurrent state, which goes back a few tokens only with one.
    pool = make_speculating_pool(speculation, has_head=speculation is Speculation.NGRAM)
    assert await draft_of(pool) == own_report(speculation, DraftState.UNSUITABLE)


async def test_an_engine_that_fails_with_its_head_is_loaded_without(make_speculating_pool: MakePool) -> None:
    pool = make_speculating_pool(Speculation.MTP, "--refuse-draft")
    assert await draft_of(pool) == own_report(Speculation.MTP, DraftState.FAILED)


def draft_parameters(gpu_layers: tuple[int, ...], draft_gpu: int) -> Any:
    spec = EngineSpec(
        model_path="m.gguf",
        alias="m",
        context_length=512,
        slots=1,
        batch_tokens=128,
        ubatch_tokens=128,
        prompt_cache_bytes=0,
        threads=1,
        api_key="k",
        gpu_layers=gpu_layers,
        draft_path="d.gguf",
        draft_gpu=draft_gpu,
    )
    return build_llama_params(spec).speculative.draft


def test_the_parameters_of_a_draft() -> None:
    draft = draft_parameters((9,), 0)
    assert (draft.mparams.path, draft.n_max) == ("d.gguf", 3)
    assert draft.n_gpu_layers > 1000


def test_a_draft_beside_a_model_on_one_of_several_gpus_inherits_its_place() -> None:
    # llama.cpp would look for the model's `main_gpu` in a list of devices of the draft.
    assert not draft_parameters((0, 9), 1).devices
