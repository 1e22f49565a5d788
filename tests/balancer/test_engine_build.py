"""A build of llama.cpp that appears while llb runs: it is used once nothing is loaded, and given up again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from llb.engine.builds.overlays import OverlayStore
from llb.hardware import installed_version
from llb.node import agent as agent_module
from llb.policy.engine_build.choice import VULKAN
from llb.wire import EngineInfo
from tests.conftest import BalancerFactory
from tests.engine.builds import package_index
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn


def add_build(home: Path, source: str = package_index.WORKING) -> OverlayStore:
    """Add a verified build to a data directory."""
    store = OverlayStore(home / "engines", installed_version())
    directory = store.directory / f"{VULKAN}-{store.version}"
    (directory / "xllamacpp").mkdir(parents=True)
    (directory / "xllamacpp" / "__init__.py").write_text(source)
    overlay = store.find(VULKAN)
    assert overlay is not None
    store.mark_verified(overlay, ("Pretended GPU",))
    return store


def build_of(llb: RunningBalancer) -> EngineInfo | None:
    [node] = llb.app.cluster.view.nodes.values()
    return node.hello.hardware.engine


def uses(llb: RunningBalancer, variant: str) -> bool:
    engine = build_of(llb)
    return engine is not None and engine.variant == variant


async def chat(llb: RunningBalancer) -> None:
    question = {"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await llb.http.post("/v1/chat/completions", json=question)
    assert answer.status_code == 200, answer.text


def engine_import_path() -> str:
    """PYTHONPATH of the engine that is loaded."""
    [worker] = [child for child in psutil.Process().children(recursive=True) if is_engine(child)]
    return worker.environ()["PYTHONPATH"]


def is_engine(process: psutil.Process) -> bool:
    return "llb.engine.worker" in process.cmdline() and process.parent() == psutil.Process()


@pytest.fixture
async def llb(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningBalancer:
    monkeypatch.setattr(agent_module, "HEARTBEAT_INTERVAL_S", 0.05)
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf.read_bytes()})
    entry: dict[str, Any] = {"id": "chat", "size_bytes": chat_gguf.stat().st_size}
    llb = await make_llb(catalog=write_catalog(tmp_path / "chat.json", entry)).start()
    await llb.wait_until_online()
    return llb


async def test_a_build_is_taken_when_nothing_is_loaded_and_left_when_it_is_gone(llb: RunningBalancer) -> None:
    assert uses(llb, "cpu")
    await llb.pull_model("chat")
    await chat(llb)
    store = add_build(llb.home)
    agent = llb.app.agent
    # The engine that is loaded keeps its build.
    assert await agent._host.change_build() is None
    assert str(store.directory) not in engine_import_path()
    await agent.unload_model("chat")
    await llb.wait_until(lambda: uses(llb, VULKAN))
    [node] = (await llb.http.get("/api/nodes")).json()["nodes"]
    engine = node["hardware"]["engine"]
    assert (engine["build"], engine["variant"], engine["reason"]) == ("vulkan", VULKAN, None)
    assert (engine["devices"][0]["name"], engine["devices"][0]["kind"]) == ("Pretended GPU", "gpu")
    assert (await llb.http.get("/api/system")).json()["engine"] == engine
    assert llb.app.local_node.engine_pool.budget is not None
    assert llb.app.local_node.engine_pool.budget.vram_bytes
    await chat(llb)
    assert engine_import_path().startswith(str(store.directory))
    [loaded] = llb.app.local_node.engine_pool._engines.values()
    assert loaded.plan is not None
    assert sum(loaded.plan.spec.gpu_layers) > 0
    metrics = (await llb.http.get("/metrics")).text
    labels = f'build="vulkan",node="attic",variant="vulkan",version="{store.version}"'
    assert f"llb_node_engine_info{{{labels}}} 1.0" in metrics

    # Its files are gone; the engine that is loaded does not need them any more.
    shutil.rmtree(store.directory)
    await chat(llb)
    await agent.unload_model("chat")
    await llb.wait_until(lambda: uses(llb, "cpu"))
    await chat(llb)


async def test_the_user_goes_back_to_the_cpu(llb: RunningBalancer) -> None:
    store = add_build(llb.home)
    await llb.wait_until(lambda: uses(llb, VULKAN))
    store.choose("cpu")
    await llb.wait_until(lambda: uses(llb, "cpu"))
    store.choose(None)
    await llb.wait_until(lambda: uses(llb, VULKAN))


async def test_a_build_that_finds_no_gpu_any_more_is_given_up(llb: RunningBalancer) -> None:
    add_build(llb.home, package_index.NOT_IMPORTABLE)
    agent = llb.app.agent
    await llb.wait_until(lambda: bool(agent._host._builds and agent._host._builds._given_up))
    await llb.wait_until(lambda: uses(llb, "cpu"))
    build = agent._host._builds
    assert build is not None
    [(variant, reason)] = build.get_current().rejected
    assert variant == VULKAN
    assert "libcublas.so.12" in reason
    # It is not tried again and again.
    assert build.find_other() is None
