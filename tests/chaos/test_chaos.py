"""A short chaos run in a fixed order: each fault once, with health that recovers faster than the real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from llb.policy.endpoints import circuit_breaker
from llb.wire import EndpointStatus
from tests.chaos.clients import CLIENT_COUNT, Clients
from tests.chaos.site import ENGINE_SLOTS, MODEL, ChaosSite, run_site
from tests.harness import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK_HEALTH_S = {"OPEN_S": 0.2, "RAMP_S": 1.5, "FIRST_RETRY_S": 0.1, "RATE_LIMIT_S": 0.3}
BUDGET_USD, CENT_USD = 0.5, 0.01


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory, chat_gguf: Path) -> AsyncIterator[ChaosSite]:
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in QUICK_HEALTH_S.items():
            patch.setattr(circuit_breaker, name, seconds)
        async with run_site(tmp_path_factory.mktemp("chaos"), chat_gguf) as made:
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(site: ChaosSite) -> AsyncIterator[Clients]:
    """Clients that ask all the time. None may ever be refused."""
    async with Clients(site.llb.url, site.key, MODEL, seed=1) as running:
        yield running
    assert running.defects == []


async def test_a_killed_engine_fails_nobody_and_returns_by_a_ramp(site: ChaosSite, clients: Clients) -> None:
    await clients.wait_for_answers(CLIENT_COUNT)
    site.engine.stop()
    await site.wait_for_status(EndpointStatus.OFFLINE)
    await clients.wait_for_answers(4)
    site.engine.clear_requests()
    site.engine.start()
    await site.wait_for_ramp()
    assert site.engine.requests_to("/chat/completions")
    recovered_at = site.endpoint.health.recovered_at
    assert recovered_at is not None
    assert time.monotonic() >= recovered_at + QUICK_HEALTH_S["RAMP_S"]
    [*_, ramp] = site.ramps
    assert ramp[0] <= ENGINE_SLOTS / 4
    assert ramp == sorted(ramp)
    assert clients.defects == []


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        ("hang", {"times": 4}),
        ("reset", {"times": 4}),
        ("status", {"status": 500, "times": 4}),
        ("status", {"status": 529, "times": 4}),
        ("slow_start", {"seconds": 0.2, "times": CLIENT_COUNT}),
    ],
)
async def test_faults_of_the_engine(
    site: ChaosSite, clients: Clients, fault: str, fields: dict[str, int]
) -> None:
    site.engine.add_fault(fault, path="/chat/completions", **fields)
    await clients.wait_until(lambda: not site.engine.faults)
    await clients.wait_for_answers(CLIENT_COUNT // 2)
    assert clients.defects == []
    # Only an answer that has begun cannot be given by another place.
    assert clients.count("cut") == 0


async def test_an_answer_that_has_begun_ends_with_an_error(site: ChaosSite, clients: Clients) -> None:
    site.engine.add_fault("kill", after=3, times=None, path="/chat/completions")
    await clients.wait_until(lambda: clients.count("cut") > 0)
    site.engine.clear_faults()
    assert clients.defects == []


async def test_retry_after_is_kept(site: ChaosSite, clients: Clients) -> None:
    site.engine.add_fault("status", status=429, retry_after="1", path="/chat/completions")
    await site.wait_for_status(EndpointStatus.RATE_LIMITED)
    limited_until = site.endpoint.health.limited_until
    assert limited_until is not None
    # Those that were on their way when the answer came.
    await wait_until(lambda: not site.endpoint.shared_slots.busy or time.monotonic() > limited_until)
    idle_since = time.monotonic()
    await site.wait_for_status(EndpointStatus.HEALTHY)
    asked = site.engine.requests_to("/chat/completions")
    assert not [request for request in asked if idle_since < request.at < limited_until]
    assert clients.defects == []


async def test_the_cloud_gets_requests_by_a_rule_alone_and_within_its_budget(
    site: ChaosSite, clients: Clients
) -> None:
    assert not site.cloud.requests_to("/chat/completions")
    await site.allow_cloud(after_s=0.02, budget_usd=BUDGET_USD)
    site.cloud.add_fault("status", status=529, times=1)
    site.engine.stop()
    await clients.wait_until(lambda: site.cloud_tokens() * CENT_USD > BUDGET_USD / 2)
    site.engine.start()
    await site.forbid_cloud()
    # By then the requests have ended that were under way with the rule.
    await site.wait_for_ramp()
    await clients.wait_for_answers(CLIENT_COUNT)
    asked = len(site.cloud.requests_to("/chat/completions"))
    await clients.wait_for_answers(CLIENT_COUNT // 2)
    assert len(site.cloud.requests_to("/chat/completions")) == asked
    spent_usd = await site.spent_usd()
    assert spent_usd == pytest.approx(site.cloud_tokens() * CENT_USD)
    assert spent_usd <= BUDGET_USD
    assert clients.defects == []
