from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llb.gateway.http.client import HttpClient
from tests.gateway.real_engine import RealEngine, real_engine

# Of a model, with a number of slots and a context length.
Engines = Callable[[Path, int, int], RealEngine]


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture(scope="package")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One real engine for each model, number of slots and context length."""
    running: dict[tuple[Path, int, int], RealEngine] = {}
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:

        def engine(model: Path, slots: int, context: int) -> RealEngine:
            key = (model, slots, context)
            if key not in running:
                log = folder / f"{len(running)}.log"
                running[key] = stack.enter_context(real_engine(model, log, slots=slots, context=context))
            running[key].forget_log()
            return running[key]

        yield engine
