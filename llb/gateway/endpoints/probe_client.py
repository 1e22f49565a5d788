"""Small GET requests to endpoints, bounded in time and size. Redirects are not followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import ConnectError
from llb.wire.decoding import DECODE_ERRORS

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 10.0
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024


class ProbeResult(Struct, frozen=True):
    """Answer to a probe: `document` is the JSON of its `body`, None if it is none."""

    status: int
    body: bytes
    document: Any
    server: bytes
    latency_ms: float

    @property
    def is_ok(self) -> bool:
        return self.status == 200

    def mapping(self) -> dict[str, Any]:
        """Return the JSON object of a successful answer, empty if there is none.

        Some programs answer 200 with an error to a path that they do not have.
        """
        if self.is_ok and isinstance(self.document, dict) and "error" not in self.document:
            return self.document
        return {}


class ProbeClient:
    """Asks one endpoint."""

    def __init__(
        self,
        http_client: HttpClient,
        target: UpstreamTarget,
        root_path: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._http_client = http_client
        self._target = target
        self._root_target = replace(target, base_path=root_path.encode("ascii"))
        self._headers = headers

    async def get(self, path: str) -> ProbeResult:
        """Ask a path after `/v1`. Raises `TransportError`."""
        return await self._get(self._target, path)

    async def get_root(self, path: str) -> ProbeResult:
        """Ask a path outside of `/v1`. Raises `TransportError`."""
        return await self._get(self._root_target, path)

    async def _get(self, target: UpstreamTarget, path: str) -> ProbeResult:
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._http_client.request(
                    target,
                    b"GET",
                    path.encode("ascii"),
                    self._headers,
                    connect_timeout_s=CONNECT_TIMEOUT_S,
                    header_timeout_s=TIMEOUT_S,
                )
                latency_ms = (time.monotonic() - started_at) * 1000
                try:
                    body = await response.read(MAX_DOCUMENT_BYTES, TIMEOUT_S)
                finally:
                    response.close()
        except TimeoutError:
            raise ConnectError(f"no answer within {TIMEOUT_S:g} s", is_timeout=True) from None
        answered = dict(response.headers)
        try:
            document = msgspec.json.decode(body)
        except DECODE_ERRORS:
            document = None
        return ProbeResult(response.status, body, document, answered.get(b"server", b""), latency_ms)
