"""The snippets of the seed, unchanged except for the key."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer

CURL_LIST = """curl http://localhost:8080/api/models \\
  -H "Authorization: Bearer sk-your-api-key"
"""

CURL_REGISTER = """curl -X POST http://localhost:8080/api/models/register \\
  -H "Authorization: Bearer sk-your-api-key" \\
  -H "Content-Type: application/json" \\
  -d '{"model_id": "llama-3.2-1b"}'
"""

HTTPX_SCRIPT = """
import httpx

BASE_URL = "http://localhost:8080"
HEADERS = {"Authorization": "Bearer sk-your-api-key"}

# 対応モデル一覧を取得
response = httpx.get(f"{BASE_URL}/api/models", headers=HEADERS)
models = response.json()["models"]

# 利用可能なモデルを表示
for m in models:
    status = m["status"]
    name = m["model"]["name"]
    size_gb = m["model"]["size_bytes"] / 1e9
    print(f"{name}: {status} ({size_gb:.1f}GB)")

# 未ダウンロードのモデルを登録
available_models = [m for m in models if m["status"] == "Available"]
if available_models:
    model_id = available_models[0]["model"]["id"]
    httpx.post(
        f"{BASE_URL}/api/models/register",
        headers=HEADERS,
        json={"model_id": model_id}
    )
    print(f"Registered: {model_id}")
"""

LISTENER = """
import asyncio
import websockets
import json

async def listen_model_updates():
    uri = "ws://localhost:8080/ws/models"
    async with websockets.connect(uri) as ws:
        async for message in ws:
            event = json.loads(message)
            if event["type"] == "ModelStatusChanged":
                print(f"Model {event['model_id']}: {event['status']}")
                if event.get("progress"):
                    print(f"  Progress: {event['progress']*100:.1f}%")

asyncio.run(listen_model_updates())
"""


def fill_in(snippet: str, llb: RunningBalancer, key: str) -> str:
    """Return the snippet with the key and port of this run."""
    assert "localhost:8080" in snippet
    return snippet.replace("sk-your-api-key", key).replace("localhost:8080", f"localhost:{llb.port}")


async def run(*command: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )


async def output_of(*command: str) -> str:
    process = await run(*command)
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, error.decode()
    return out.decode()


@pytest.fixture
async def seeded(make_llb: BalancerFactory) -> RunningBalancer:
    """Balancer with the shipped catalogue."""
    llb = await make_llb(catalog=None).start()
    await llb.wait_until_online()
    return llb


async def test_curl(seeded: RunningBalancer) -> None:
    key = await seeded.create_key()
    listed = json.loads(await output_of("sh", "-c", fill_in(CURL_LIST, seeded, key) + " 2>/dev/null"))
    first = listed["models"][0]
    assert first["model"]["id"] == "llama-3.2-1b"
    assert {
        "name",
        "description",
        "repo",
        "size_bytes",
        "required_memory_bytes",
        "tags",
        "capabilities",
        "quantization",
    } <= first["model"].keys()
    assert first["status"] == "Available"
    assert first["available_nodes"] == 0
    registered = json.loads(await output_of("sh", "-c", fill_in(CURL_REGISTER, seeded, key)))
    assert registered["model_id"] == "llama-3.2-1b"
    assert registered["status"] == "Registered"


async def test_the_httpx_script(seeded: RunningBalancer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(fill_in(HTTPX_SCRIPT, seeded, await seeded.create_key()), encoding="utf-8")
    lines = (await output_of(sys.executable, str(script))).splitlines()
    assert lines[0] == "LLaMA 3.2 1B: Available (0.8GB)"
    assert lines[-1] == "Registered: llama-3.2-1b"
    assert len(lines) > 30
    assert (await seeded.get_model("llama-3.2-1b"))["status"] != "Available"


async def test_the_listener_prints_every_step_of_a_pull(llb: RunningBalancer, tmp_path: Path) -> None:
    script = tmp_path / "listener.py"
    script.write_text(fill_in(LISTENER, llb, ""), encoding="utf-8")
    # Its event comes first, and so shows that the listener is connected.
    await llb.pull_model("other")
    process = await run(sys.executable, str(script))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"Model other: Ready\n"
            await llb.register_model("tiny")
            lines: list[str] = []
            while not lines or lines[-1] != "Model tiny: Ready":
                lines.append((await process.stdout.readline()).decode().rstrip())
            assert await process.stdout.readline() == b"  Progress: 100.0%\n"
    finally:
        process.kill()
        await process.wait()
    steps = [line for line in lines if line.startswith("Model tiny")]
    assert steps[0] == "Model tiny: Registered"
    assert "Model tiny: Downloading" in steps


async def test_the_default_port_is_that_of_the_snippets(make_llb: BalancerFactory) -> None:
    from llb.config import make_config
    from llb.server import bind_main_port

    config = make_config(home=Path("unused"))
    assert (config.listen_host, config.port) == ("127.0.0.1", 8080)
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 8080)) == 0
    if not taken:
        bind_main_port(config).close()
