"""Site of a chaos run: a balancer whose model is on its own node and at a stand-in of vLLM, and a cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llb.gateway.endpoints.endpoint import Endpoint
from llb.wire import EndpointStatus
from tests.conftest import balancer_factory
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn
from tests.providers import ProviderStandIn

MODEL = "chat"
CLOUD_MODEL = "cloud:gpt-4o-mini"
ENGINE_SLOTS = 20
# The shortest that an endpoint may have.
ENGINE_TIMEOUT_S = 1.0
CENT_PER_TOKEN = 10_000.0
SAMPLE_INTERVAL_S = 0.01


@dataclass
class ChaosSite:
    """The processes of a run. `ramps` has the slots of the engine from each recovery on."""

    llb: RunningBalancer
    engine: ProviderStandIn
    cloud: ProviderStandIn
    key: str
    ramps: list[list[int]] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        """The engine, as the balancer knows it."""
        return self.llb.app.gateway.endpoint_service.require("engine")

    async def put(self, path: str, body: dict[str, Any]) -> None:
        answer = await self.llb.http.put(path, json=body)
        assert answer.status_code == 200, answer.text

    async def allow_cloud(self, *, after_s: float, budget_usd: float) -> None:
        """Let requests go to the cloud after a wait, for at most so much money."""
        cloud = self.llb.app.gateway.endpoint_service.require("cloud")
        budget = {"scope": "provider", "id": cloud.id, "period": "month", "limit_usd": budget_usd}
        await self.put("/api/budgets", {"budgets": [budget]})
        rule = {"target": CLOUD_MODEL, "when": ["busy", "error", "unavailable"], "after_s": after_s}
        await self.put(f"/api/models/{MODEL}/routes", {"routes": [rule]})

    async def forbid_cloud(self) -> None:
        await self.put(f"/api/models/{MODEL}/routes", {"routes": []})

    async def spent_usd(self) -> float:
        """Return what the budget of the cloud says."""
        [budget] = (await self.llb.http.get("/api/budgets")).json()["budgets"]
        return float(budget["used_usd"])

    def cloud_tokens(self) -> int:
        """Return the tokens that the cloud has generated and bills."""
        return self.cloud.provider.completion_tokens

    async def wait_for_status(self, status: EndpointStatus) -> None:
        registry = self.llb.app.gateway.endpoints
        await self.llb.wait_until(lambda: registry.status_of(self.endpoint) is status)

    async def wait_for_ramp(self) -> None:
        """Wait until the engine has all of its slots again."""
        await wait_until(lambda: self.endpoint.shared_slots.slots == ENGINE_SLOTS)

    async def follow_slots(self) -> None:
        """Record the slots of the engine for ever; each recovery begins another ramp."""
        before = 0
        while True:
            slots = self.endpoint.shared_slots.slots
            if slots and not before:
                self.ramps.append([])
            if self.ramps and slots:
                self.ramps[-1].append(slots)
            before = slots
            await asyncio.sleep(SAMPLE_INTERVAL_S)


@asynccontextmanager
async def run_site(folder: Path, model: Path) -> AsyncIterator[ChaosSite]:
    """Run the site with `model` as the file of its model."""
    catalog = write_catalog(folder / "catalog.json", {"id": MODEL, "size_bytes": model.stat().st_size})
    with (
        HubStandIn() as hub,
        ProviderStandIn("vllm") as engine,
        ProviderStandIn("openai") as cloud,
    ):
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make(context=2048).start()
            await llb.wait_until_online()
            await llb.pull_model(MODEL)
            site = ChaosSite(llb, engine, cloud, await llb.create_key("inference", "cloud"))
            prices = {"gpt-4o-mini": {"input": 0.0, "output": CENT_PER_TOKEN}}
            for body in (
                {
                    "name": "engine",
                    "kind": "vllm",
                    "base_url": engine.base_url,
                    "max_concurrency": ENGINE_SLOTS,
                    "timeout_s": ENGINE_TIMEOUT_S,
                    # Its faults meet a request at once, and the own node gets those that it has no slot for.
                    "priority": 1,
                },
                {"name": "cloud", "kind": "openai", "base_url": cloud.base_url, "prices": prices},
            ):
                added = await llb.http.post("/api/endpoints", json=body)
                assert added.status_code == 201, added.text
            mapped = {engine.provider.models[0].id: MODEL}
            changed = await llb.http.patch(f"/api/endpoints/{site.endpoint.id}", json={"mapped": mapped})
            assert changed.status_code == 200, changed.text
            sampler = asyncio.create_task(site.follow_slots())
            yield site
            sampler.cancel()
            await asyncio.wait({sampler})
