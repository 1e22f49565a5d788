"""Random faults of an engine elsewhere under many clients: `python -m tests.chaos --minutes 5 [--seed 1]`.

Every round: a fault of the engine, drawn by the seed, while the clients go on; in the second half of the run
a rule leads to the cloud, within a budget. Prints a report; exits 1 with what was wrong: a request that
failed before its answer had begun, a request to the cloud without a rule, money beyond the budget, or a
recovery without a ramp. `tests/chaos/test_chaos.py` is a short run in a fixed order.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.chaos.clients import CLIENT_COUNT, Clients
from tests.chaos.site import CENT_PER_TOKEN, ENGINE_SLOTS, MODEL, ChaosSite, run_site
from tests.ggufs import write_chat_model

BUDGET_USD = 5.0
ROUND_S = 5.0
# Longer than the answers that were under way when a rule ended.
SPILL_AFTER_S = 0.2
# Of a ramp that was not cut short by another fault.
MIN_RAMP_STEPS = 3


class ChaosRun:
    """One run: its faults and defects."""

    def __init__(self, site: ChaosSite, clients: Clients, minutes: float, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self._site = site
        self._clients = clients
        self._random = random.Random(seed)
        self._duration_s = minutes * 60

    async def run(self) -> None:
        began = time.monotonic()
        is_cloud_allowed = False
        while (elapsed_s := time.monotonic() - began) < self._duration_s and not self.problems:
            if not is_cloud_allowed and elapsed_s > self._duration_s / 2:
                self._check_no_cloud()
                await self._site.allow_cloud(after_s=SPILL_AFTER_S, budget_usd=BUDGET_USD)
                is_cloud_allowed = True
            await self._run_round()
            self.problems += self._clients.defects
            print(f"{elapsed_s:.0f} s: {self._clients.outcomes.total()} answers", flush=True)
        if is_cloud_allowed:
            await self._check_budget()
        self._check_ramps()

    async def _run_round(self) -> None:
        name, act = self._random.choice(self._kinds())
        self.faults[name] += 1
        await act()
        await asyncio.sleep(ROUND_S)
        self._site.engine.clear_faults()
        await self._clients.wait_for_answers(CLIENT_COUNT)

    def _kinds(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        chance = self._random
        return [
            ("the engine is killed", self._kill_engine),
            ("the engine hangs", self._fault("hang", times=chance.randint(1, 8))),
            ("the engine resets connections", self._fault("reset", times=chance.randint(1, 8))),
            ("answers break off", self._fault("kill", after=3, times=chance.randint(1, 8))),
            ("429 with Retry-After", self._fault("status", status=429, retry_after="3")),
            ("529", self._fault("status", status=529, times=chance.randint(1, 4))),
            ("500", self._fault("status", status=500, times=chance.randint(1, 8))),
            ("slow start", self._fault("slow_start", seconds=0.5, times=None)),
        ]

    def _fault(self, kind: str, **fields: object) -> Callable[[], Awaitable[None]]:
        async def add() -> None:
            self._site.engine.add_fault(kind, path="/chat/completions", **fields)

        return add

    async def _kill_engine(self) -> None:
        # It joins a thread, which ends with its connections.
        await asyncio.to_thread(self._site.engine.stop)
        await asyncio.sleep(self._random.uniform(0.5, ROUND_S))
        await asyncio.to_thread(self._site.engine.start)

    def _check_no_cloud(self) -> None:
        asked = len(self._site.cloud.requests_to("/chat/completions"))
        if asked:
            self.problems.append(f"the cloud got {asked} requests without a rule")

    async def _check_budget(self) -> None:
        billed_usd = self._site.cloud_tokens() * CENT_PER_TOKEN / 1e6
        spent_usd = await self._site.spent_usd()
        if max(billed_usd, spent_usd) > BUDGET_USD + 1e-9:
            self.problems.append(f"{spent_usd} USD booked and {billed_usd} billed, of {BUDGET_USD}")

    def _check_ramps(self) -> None:
        for ramp in self._site.ramps[1:]:
            if ENGINE_SLOTS in ramp and len(set(ramp)) < MIN_RAMP_STEPS:
                self.problems.append(f"a recovery without a ramp: {sorted(set(ramp))}")


def render_report(run: ChaosRun, clients: Clients, minutes: float, seed: int) -> str:
    lines = [f"{minutes:g} minutes, seed {seed}, {CLIENT_COUNT} clients", ""]
    lines += ["| answer | times |", "| --- | --- |"]
    lines += [f"| {name} | {times} |" for name, times in sorted(clients.outcomes.items())]
    lines += ["", "| fault | times |", "| --- | --- |"]
    lines += [f"| {name} | {times} |" for name, times in sorted(run.faults.items())]
    return "\n".join(lines)


async def main(minutes: float, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="llb-chaos-") as name:
        folder = Path(name)
        async with run_site(folder, write_chat_model(folder / "chat.gguf")) as site:
            async with Clients(site.llb.url, site.key, MODEL, seed) as clients:
                run = ChaosRun(site, clients, minutes, seed)
                await run.run()
            print(render_report(run, clients, minutes, seed))
            return run.problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    problems = asyncio.run(main(options.minutes, options.seed))
    sys.exit("\n".join(problems) if problems else None)
