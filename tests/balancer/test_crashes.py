"""Requests that crash or hang an engine: blamed, not repeated, and no burden for others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import BalancerFactory, start_balancer
from tests.engine.crashing_engines import CrashingEngines, ask, error_code, victim_stream
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn


@pytest.fixture
async def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrashingEngines:
    return CrashingEngines(tmp_path, monkeypatch)


@pytest.fixture
async def llb(
    engines: CrashingEngines, make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """A balancer with the model `chat`."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await start_balancer(make_llb(catalog=catalog))
    await llb.pull_model("chat")
    return llb


@pytest.mark.parametrize("poison", ["CRASH", "LATE_CRASH", "HANG"])
async def test_a_request_that_ends_the_engine_is_refused_from_then_on(
    llb: RunningBalancer, engines: CrashingEngines, poison: str
) -> None:
    attacker, good = await llb.create_key(), await llb.create_key()
    async with victim_stream(llb, good) as victim:
        refused = await ask(llb, poison, key=attacker, max_tokens=1000)
        assert (refused.status_code, error_code(refused)) == (400, "request_crashes_engine")
        await victim.ended.wait()
        assert victim.error_code == "engine_failed"
    # The next engine answers at once: no back-off.
    assert (await ask(llb, key=good)).status_code == 200
    assert len(engines.pids) == 2
    again = await ask(llb, poison, key=good, max_tokens=1000)
    assert (again.status_code, error_code(again)) == (400, "request_crashes_engine")
    assert (await ask(llb, key=good)).status_code == 200
    assert len(engines.pids) == 2


@pytest.mark.parametrize("poison", ["CRASH", "HANG"])
async def test_what_waits_for_its_answer_gets_it_from_the_next_engine(
    llb: RunningBalancer, engines: CrashingEngines, poison: str
) -> None:
    assert (await ask(llb)).status_code == 200
    begun = engines.answers_begun()
    # Nothing of a document has been sent to its client before it is complete.
    waiting = asyncio.ensure_future(ask(llb, max_tokens=80))
    # Else it would be as suspect as the other request.
    await wait_until(lambda: engines.answers_begun() > begun)
    assert (await ask(llb, poison, max_tokens=1)).status_code == 400
    assert (await waiting).status_code == 200
    assert len(engines.pids) == 2


async def test_of_two_that_began_together_only_the_cause_is_refused(
    llb: RunningBalancer, engines: CrashingEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.engine.watch_policy.SAME_TIME_S", 60.0)
    assert (await ask(llb)).status_code == 200
    innocent, cause = await asyncio.gather(ask(llb, max_tokens=80), ask(llb, "LATE_CRASH", max_tokens=300))
    assert innocent.status_code == 200
    assert (cause.status_code, error_code(cause)) == (400, "request_crashes_engine")
    # Once beside the other, once alone. The innocent one needs a third engine if it is the second of the two.
    assert len(engines.pids) in (2, 3)
    # Another body, which needs that engine otherwise.
    assert (await ask(llb, "LATE_CRASH", max_tokens=80)).status_code == 400
    assert len(engines.pids) == 3


async def test_variations_are_limited_for_the_caller_alone(
    llb: RunningBalancer, engines: CrashingEngines
) -> None:
    attacker, good = await llb.create_key(), await llb.create_key()
    codes = []
    for number in range(5):
        codes.append(error_code(await ask(llb, f"CRASH {number}", key=attacker)))
        answer = await ask(llb, key=good)
        assert answer.status_code == 200
    assert codes == ["request_crashes_engine"] * 3 + ["too_many_crashes"] * 2
    assert len(engines.pids) == 4
    refused = await ask(llb, key=attacker)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


async def test_a_request_that_loops_before_the_engines_queue_ends_with_its_engine(
    llb: RunningBalancer, engines: CrashingEngines
) -> None:
    assert (await ask(llb)).status_code == 200
    refused = await ask(llb, "LOOP")
    assert (refused.status_code, error_code(refused)) == (400, "request_crashes_engine")
    assert (await ask(llb)).status_code == 200
    assert len(engines.pids) == 2


async def test_work_of_a_client_that_has_left_ends_with_its_engine(
    llb: RunningBalancer, engines: CrashingEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.engine.watch_policy.IDLE_COMPUTING_S", 1.0)
    assert (await ask(llb)).status_code == 200
    asking = asyncio.ensure_future(ask(llb, "LOOP"))
    await wait_until(lambda: engines.answers_begun("LOOP"))
    asking.cancel()
    await wait_until(lambda: not engines.alive)
    assert (await ask(llb)).status_code == 200
