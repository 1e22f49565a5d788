"""Hub client of the tests: files without a network, failures on demand."""

from __future__ import annotations

import asyncio
from typing import Any

from llb.hub import HubFileInfo

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """Stands for `HubClient`: each question is answered with `failure`, else with a file of `size_bytes`."""

    def __init__(self, size_bytes: int = 300_000) -> None:
        self.size_bytes = size_bytes
        self.failure: Exception | None = None
        # What `read_range` reads from.
        self.content = b""
        self.asked: list[str] = []
        self.ranges: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def resolve_file(self, repo: str, filename: str, revision: str | None = None) -> HubFileInfo:
        self.asked.append(filename)
        await self._wait()
        sha256 = filename.encode().hex().ljust(64, "0")[:64]
        return HubFileInfo(
            repo=repo, filename=filename, commit=COMMIT, size_bytes=self.size_bytes, sha256=sha256
        )

    async def read_range(self, repo: str, commit: str, filename: str, start: int, length: int) -> bytes:
        self.ranges.append(length)
        await self._wait()
        return self.content[start : start + length]

    async def _wait(self) -> None:
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure

    def as_client(self) -> Any:
        """Return this object in place of a `HubClient`."""
        return self
