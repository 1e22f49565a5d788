"""Child process of `test_kill9`: downloads one file and prints how many bytes are synced."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from llb.hub import HubClient
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.resumable_download import FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec

TIMEOUTS = DownloadTimeouts(backoff_initial_s=0.05, sync_interval_bytes=128 * 1024)


async def download_file(url: str, directory: Path, spec: FileSpec) -> None:
    hub = HubClient(url)
    download = FileDownload(
        spec, directory, hub=hub, bandwidth_limiter=BandwidthLimiter(None), timeouts=TIMEOUTS
    )
    download.start()
    finished = asyncio.ensure_future(download.wait())
    printed_bytes = -1
    while not finished.done():
        await asyncio.wait([finished], timeout=0.001)
        if download.synced_bytes != printed_bytes:
            printed_bytes = download.synced_bytes
            print(printed_bytes, flush=True)
    await finished
    await hub.aclose()


if __name__ == "__main__":
    asyncio.run(
        download_file(sys.argv[1], Path(sys.argv[2]), msgspec.json.decode(sys.argv[3], type=FileSpec))
    )
