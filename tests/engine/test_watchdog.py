"""Progress of the requests of an engine: what counts, who is blamed, and what follows for the next load."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from llb.engine.lease import Lease
from llb.engine.pool import EnginePool
from llb.engine.request_watch import MAX_LIVES_WITHOUT_ANSWER
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.errors import EngineFailed
from llb.wire import EngineState
from tests.engine.pool_fixture import WAIT_S, PoolFixture, error_of, state, use
from tests.engine.workers import eventually

SPEED = EngineSpeed(1000.0, 100.0)


@dataclass
class Answer:
    """What an engine has answered so far."""

    total_bytes: int = 0
    is_buffer_full: bool = False


async def begin(pool: EnginePool) -> tuple[Lease, Answer]:
    lease = await pool.acquire_lease("a", deadline_s=WAIT_S)
    lease.begin_request(400, SPEED)
    answer = Answer()
    lease.follow_answer(answer)
    return lease, answer


async def test_a_silent_engine_is_ended_and_the_last_request_before_is_blamed(
    pool_fixture: PoolFixture,
) -> None:
    pool = pool_fixture.pool(progress_s=0.01)
    stream, streamed = await begin(pool)
    pool_fixture.now += 10
    streamed.total_bytes += 1
    cause, _ = await begin(pool)
    pool_fixture.now += 1
    streamed.total_bytes += 1
    await eventually(lambda: stream.progress and stream.progress.last_byte_at == pool_fixture.now)
    pool_fixture.now += 10
    later, _ = await begin(pool)
    pool_fixture.now += 1000
    assert [await lease.wait_for_blame(WAIT_S) for lease in (stream, cause, later)] == [
        Blame.NONE,
        Blame.CAUSE,
        Blame.NONE,
    ]
    # Its failure is the request's: no back-off.
    await use(pool)
    assert pool_fixture.loads == ["a", "a"]


async def test_progress_of_any_request_keeps_the_engine(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool(progress_s=0.01)
    lease, answer = await begin(pool)
    for _ in range(5):
        pool_fixture.now += 20
        answer.total_bytes += 1
        await eventually(lambda: lease.progress and lease.progress.last_byte_at == pool_fixture.now)
    assert state(pool) is EngineState.BUSY
    lease.release()


async def test_a_request_that_stops_an_engine_from_outside_is_not_blamed(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    lease, _ = await begin(pool)
    os.kill(pool_fixture.pid(), signal.SIGKILL)
    assert await lease.wait_for_blame(WAIT_S) is Blame.NONE
    await use(pool)


async def test_an_unloaded_engine_blames_nobody(pool_fixture: PoolFixture) -> None:
    pool = pool_fixture.pool()
    lease, _ = await begin(pool)
    await pool.unload("a", grace_s=0)
    assert await lease.wait_for_blame(WAIT_S) is None


async def test_an_engine_that_answers_nothing_is_its_own_cause(pool_fixture: PoolFixture) -> None:
    """A defect of the driver, for example: every request would be blamed, and loads would never end."""
    pool = pool_fixture.pool()
    blames = []
    for load in range(MAX_LIVES_WITHOUT_ANSWER):
        lease, _ = await begin(pool)
        assert len(pool_fixture.loads) == load + 1
        os.kill(pool_fixture.pid(), signal.SIGSEGV)
        blames.append(await lease.wait_for_blame(WAIT_S))
    assert blames == [Blame.CAUSE] * (MAX_LIVES_WITHOUT_ANSWER - 1) + [Blame.NONE]
    error = await error_of(pool)
    assert isinstance(error, EngineFailed)
    assert error.retry_after_s == 1


@pytest.mark.parametrize("answered", [True, False])
async def test_an_answer_shows_that_the_engine_works(pool_fixture: PoolFixture, answered: bool) -> None:
    pool = pool_fixture.pool()
    for _ in range(MAX_LIVES_WITHOUT_ANSWER):
        fine, answer = await begin(pool)
        answer.total_bytes = 1 if answered else 0
        fine.release()
        lease, _ = await begin(pool)
        os.kill(pool_fixture.pid(), signal.SIGSEGV)
        blame = await lease.wait_for_blame(WAIT_S)
    assert blame is (Blame.CAUSE if answered else Blame.NONE)
