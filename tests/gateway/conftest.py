from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llb.gateway.http.client import HttpClient
from tests.gateway.real_engine import RealEngine, real_engine

Engines = Callable[[Path, int], RealEngine]


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture(scope="package")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """One real engine for each model and number of slots."""
    running: dict[tuple[Path, int], RealEngine] = {}
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:

        def engine(model: Path, slots: int) -> RealEngine:
            if (model, slots) not in running:
                log = folder / f"{len(running)}.log"
                running[model, slots] = stack.enter_context(real_engine(model, log, slots=slots))
            running[model, slots].forget_log()
            return running[model, slots]

        yield engine
