"""Client of the Hub with a stand-in that has one repository."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest

from llb.hub import (
    HubClient,
)
from tests.hub import HubStandIn, tiny_gguf

REPO, FILE, TOKEN = "org/name", "sub dir/tiny.gguf", "hf_secret"

DATA = tiny_gguf(300_000)

SHA256 = hashlib.sha256(DATA).hexdigest()

TIMEOUT_S = 30.0


@pytest.fixture
def standin() -> Iterator[HubStandIn]:
    with HubStandIn() as standin:
        standin.add_token(TOKEN, licences=[REPO])
        standin.add_repo(REPO, {FILE: DATA, "README.md": b"# hi"}, downloads=7, likes=3)
        yield standin


@pytest.fixture
async def hub(standin: HubStandIn) -> AsyncIterator[HubClient]:
    hub = HubClient(standin.url + "/", None)
    yield hub
    await hub.aclose()
