"""The child of `test_kill9`: downloads one file and tells on stdout how much of it is safe. Made to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from llb.hub import Hub
from llb.node.downloads import Download, RateLimiter, Timing
from llb.wire import FileSpec

TIMING = Timing(backoff_first_s=0.05, sync_every_bytes=128 * 1024)


async def pull(url: str, directory: Path, spec: FileSpec) -> None:
    hub = Hub(url)
    download = Download(spec, directory, hub=hub, limiter=RateLimiter(None), timing=TIMING)
    download.start()
    finished = asyncio.ensure_future(download.wait())
    told = -1
    while not finished.done():
        await asyncio.wait([finished], timeout=0.001)
        if download.synced_bytes != told:
            told = download.synced_bytes
            print(told, flush=True)
    await finished
    await hub.aclose()


if __name__ == "__main__":
    asyncio.run(pull(sys.argv[1], Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=FileSpec)))
