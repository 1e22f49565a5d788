"""Local proof: whether a request was made by a program of this host, run by the user of llb.

Needed in place of a credential: for the default password, the routes of local programs and the Ollama port.
The absence of a proxy's headers proves nothing, so the peer's process is examined too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.client_info import ClientInfo
from llb.security.peer_process import Doubt, PeerReport, examine_peer
from llb.texts.coded_text import CodedText

log = logging.getLogger(__name__)

ELSEWHERE = CodedText("doubt_elsewhere", "the request came from another host")
OTHER_NAME = CodedText(
    "doubt_other_name", "the request names this host by a name or an address that other hosts use too"
)
TRUSTED_PROXY = CodedText("doubt_trusted_proxy", "the request came from an address of --trusted-proxy")
OLD_HTTP = CodedText("doubt_old_http", "the request is not HTTP/1.1, as those of proxies")
TUNNEL = CodedText("doubt_tunnel", "the program that calls has connections to other hosts, as tunnels do")
_MAX_CONCURRENT = 2
_WARNING_INTERVAL_S = 60.0
# How long a detected proxy is reported as a problem of this host.
_PROBLEM_TTL_S = 3600.0


class ProxyDetections:
    """Requests on loopback that were not accepted as local, because they look like those of a proxy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, str] | None = None
        self._warned_at: float | None = None

    def record(self, reason: str) -> None:
        """Remember `reason`, and log it at most once a minute."""
        now = self._clock()
        self._last = now, reason
        if self._warned_at is None or now - self._warned_at >= _WARNING_INTERVAL_S:
            self._warned_at = now
            log.warning("%s", self._sentence(reason))

    def problems(self) -> tuple[str, ...]:
        """Return the sentence for the last detection, if it is recent."""
        if self._last is None or self._clock() - self._last[0] > _PROBLEM_TTL_S:
            return ()
        return (self._sentence(self._last[1]),)

    @staticmethod
    def _sentence(reason: str) -> str:
        return CodedText(
            "proxy_without_credential",
            "Something that looks like a reverse proxy calls llb without a credential: {reason}. It was "
            "refused. If a proxy of yours should reach llb, give admin a password, name the proxy with "
            "--trusted-proxy, and never point it at the port of --ollama-port; see docs/proxies.md.",
            reason=reason,
        )


class LocalProof:
    """Examines requests that claim to be local; both ports of an llb share one."""

    def __init__(self) -> None:
        self.detections = ProxyDetections()
        # Not the threads of all others, which may be busy with files and passwords.
        self._threads = ThreadPoolExecutor(_MAX_CONCURRENT, thread_name_prefix="llb-local-proof")

    async def find_doubt(self, request: IncomingRequest, *, may_reach_outside: bool = True) -> str | None:
        """Return why `request` is not proven to be local, None if it is.

        A program with connections to other hosts is doubted unless `may_reach_outside`.
        """
        doubt = self._header_doubt(request)
        if doubt is None:
            report = await self._examine_peer(request)
            doubt = report.doubt
            if doubt is None and report.reaches_outside and not may_reach_outside:
                doubt = TUNNEL
        # A browser closes its connections when a page is left: no sign of a proxy.
        if doubt not in (None, ELSEWHERE, TRUSTED_PROXY, Doubt.UNSUPPORTED, Doubt.CLOSED):
            self.detections.record(_text_of(doubt))
        return None if doubt is None else _text_of(doubt)

    @staticmethod
    def _header_doubt(request: IncomingRequest) -> str | None:
        client: ClientInfo = request.ctx.client
        if not client.is_loopback_peer:
            return ELSEWHERE
        if client.is_trusted_proxy:
            return TRUSTED_PROXY
        if client.proxy_header is not None:
            return CodedText(
                "doubt_proxy_header",
                "the request has the header of a proxy ('{header}')",
                header=client.proxy_header,
            )
        if request.version != "1.1":
            return OLD_HTTP
        return None if client.on_loopback else OTHER_NAME

    async def _examine_peer(self, request: IncomingRequest) -> PeerReport:
        connection = request.conn_info
        if connection is None or not isinstance(connection.peername, tuple):
            return PeerReport(Doubt.NOT_FOUND)
        # What a process does may change while its connection stays, so only the process is remembered.
        known: PeerReport | None = getattr(connection.ctx, "peer_report", None)
        if known is not None and known.doubt is Doubt.OTHER_USER:
            return known
        report = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            examine_peer,
            connection.peername[:2],
            connection.sockname[:2],
            () if known is None else known.pids,
        )
        connection.ctx.peer_report = report
        return report


def _text_of(doubt: str) -> str:
    if isinstance(doubt, Doubt):
        return CodedText.from_text(str(doubt), f"doubt_{doubt.name.lower()}", {})
    return doubt
