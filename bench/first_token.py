"""First token through llb and directly from the engine: `python -m bench.first_token`.

Two engines of the same kind (one of this process, one behind `python -m llb`) get the same file and the
same short prompt, with its prefix in the engine's cache, streamed. The clock runs from the first byte of
the request to the first `data:` line. Requests alternate between both, so that other load on the machine
affects both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from llb.engine.planning.engine_plan import EngineFiles
from llb.engine.pool import EnginePool
from llb.hardware import MemoryBudget
from tests.harness import write_catalog
from tests.hub import HubStandIn, smollm2_path
from tests.processes import LlbProcess


def chat_body(model: str) -> bytes:
    question = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "max_tokens": 1,
        "temperature": 0,
    }
    return json.dumps(question).encode()


class FirstTokenClient:
    """Minimal HTTP client, so that it adds little time. Connecting is not timed: llama-server closes
    after a stream.
    """

    def __init__(self, host: str, port: int, key: str, model: str = "smollm2") -> None:
        self._address = (host, port)
        self._body = chat_body(model)
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\n\r\n"
        ).encode()

    async def _read(self) -> bytes:
        piece = await self._reader.read(65536)
        assert piece, "the connection ended early"
        return piece

    async def measure_first_token_s(self) -> float:
        """Return the seconds to the first event of one answer; read the rest of the answer too."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        began = time.perf_counter()
        self._writer.write(self._head + self._body)
        data = b""
        while b"data: " not in data:
            data += await self._read()
        first = time.perf_counter() - began
        while not data.endswith(b"0\r\n\r\n"):
            data += await self._read()
        assert data.startswith(b"HTTP/1.1 200"), data[:500]
        self._writer.close()
        return first


async def measure(rounds: int) -> None:
    model = smollm2_path()
    assert model is not None
    with HubStandIn() as hub, tempfile.TemporaryDirectory() as name:
        hub.add_repo("test/smollm2", {"smollm2.gguf": model})
        folder = Path(name)
        catalog = write_catalog(folder / "c.json", {"id": "smollm2", "size_bytes": model.stat().st_size})
        pool = EnginePool(
            slots=4, context=None, keep_alive_s=-1, budget=MemoryBudget(ram_bytes=4_000_000_000)
        )
        pool.add_model("smollm2", EngineFiles(model_path=model))
        with LlbProcess(folder / "home", "--catalog", str(catalog), HF_ENDPOINT=hub.url) as llb:
            llb.register_model("smollm2")
            llb.wait_for_status("smollm2", "Ready")
            key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]
            lease = await pool.acquire_lease("smollm2", deadline_s=60)
            direct = FirstTokenClient(lease.worker.host, lease.worker.port, lease.api_key)
            through = FirstTokenClient("127.0.0.1", int(llb.url.rpartition(":")[2]), key)
            for client in (direct, through) * 5:
                await client.measure_first_token_s()
            pairs = [
                (await direct.measure_first_token_s(), await through.measure_first_token_s())
                for _ in range(rounds)
            ]
        lease.release()
        await pool.close()
    added = [after - before for before, after in pairs]
    print(f"direct   p50 {statistics.median(pair[0] for pair in pairs) * 1e3:.2f} ms")
    print(f"through  p50 {statistics.median(pair[1] for pair in pairs) * 1e3:.2f} ms")
    print(f"added    p50 {statistics.median(added) * 1e3:.2f} ms over {rounds} pairs; goal < 1 ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    asyncio.run(measure(parser.parse_args().rounds))
