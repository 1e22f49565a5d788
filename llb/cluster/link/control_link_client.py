"""A node's side of belonging to a balancer: asking to be let in, and dialling its link for as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlencode, urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from llb.base.events import Topic
from llb.base.node_identity import Membership
from llb.cluster.join.dial import connect_socket, enable_dead_peer_detection
from llb.cluster.link.websocket_link import MAX_MESSAGE_BYTES, WebSocketLink, decode_balancer_message
from llb.errors import SetupError
from llb.node.agent import NodeAgent
from llb.security import tls_trust, tokens
from llb.wire import BalancerMessage, JoinReply, JoinRequest, NodeMessage, Welcome
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 65_536
WEBSOCKET_OPEN_TIMEOUT_S = 5.0
# A host that has vanished is noticed by the kernel (`dialling.watch`); these are for a program that hangs.
PING_INTERVAL_S, PONG_TIMEOUT_S = 5.0, 10.0
BACKOFF_INITIAL_S, BACKOFF_MAX_S = 0.25, 1.0
REJECTED_RETRY_DELAY_S = 60.0  # a sentence for the operator will not change sooner
BACKOFF_RESET_AFTER_S = 10.0  # a link that held for so long was good: the next pause is short again
# With which an llb refuses; whatever else answers is none.
_ERROR_STATUSES = frozenset({400, 401, 403, 409, 429, 503})
_MISDIRECTED_REQUEST = 421
CERTIFICATE_PATH = "/api/tls/certificate"


# --- asked once --------------------------------------------------------------------------------------


class _ErrorFields(msgspec.Struct):
    message: str
    code: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields


class _ProofResponse(msgspec.Struct):
    proof: str


@dataclass(frozen=True)
class _HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error_message(self) -> str | None:
        """The sentence with which an llb refuses; None if this is none."""
        if self.status not in _ERROR_STATUSES:
            return None
        try:
            return msgspec.json.decode(self.body, type=_ErrorBody).error.message
        except DECODE_ERRORS:
            return None


async def determine_trust_anchor(url: str, fingerprint: str | None) -> str:
    """By what the llb at `url` is to be believed, if its certificate has this fingerprint. Raises `SetupError`.

    Nothing is told to whoever answers before that is known.
    """
    if not url.startswith("https:"):
        if fingerprint is None:
            return tls_trust.SYSTEM_TRUST
        raise SetupError(
            f"The token is of an llb that speaks TLS: join it as https{url.removeprefix('http')}."
        )
    if fingerprint is None:
        return tls_trust.SYSTEM_TRUST
    try:
        await asyncio.to_thread(_send_request, "GET", url + CERTIFICATE_PATH)
        return tls_trust.SYSTEM_TRUST  # so it may change its certificate as it likes
    except _NoResponse:
        pass
    answer = await _request(url, "GET", CERTIFICATE_PATH, verify=tls_trust.create_unverified_context())
    try:
        anchor = answer.body.decode("ascii")
        if tokens.tokens_equal(tls_trust.certificate_fingerprint(anchor), fingerprint):
            tls_trust.get_client_context(anchor)
            return anchor
    except ValueError:
        pass
    raise SetupError(
        f"What answers at {url} is not the llb that made the token: its certificate is another one. Check the address, "
        "and who is on the way; if the llb there has a new certificate, make a new token."
    )


async def request_join(url: str, request: JoinRequest, anchor: str = tls_trust.SYSTEM_TRUST) -> JoinReply:
    """Be let in by the balancer at `url`. Raises `SetupError` with a sentence that says what to do."""
    answer = await _request(
        url,
        "POST",
        "/api/nodes/join",
        msgspec.json.encode(request),
        verify=tls_trust.get_client_context(anchor),
    )
    if answer.status == 201:
        try:
            return msgspec.json.decode(answer.body, type=JoinReply)
        except DECODE_ERRORS:
            pass
    if answer.status == _MISDIRECTED_REQUEST:
        raise SetupError(
            f"The llb at {url} is not known by that name there: join it by its IP address, or start it with "
            f"--allowed-host {urlsplit(url).hostname}."
        )
    refusal, elsewhere = answer.error_message, answer.headers.get("location")
    if refusal is not None:
        raise SetupError(f"{refusal}: join that one, at {elsewhere}." if elsewhere else f"{refusal}.")
    if 300 <= answer.status < 400 and elsewhere is not None:
        raise SetupError(
            f"What answers at {url} leads to {elsewhere}: give the address where the llb itself is."
        )
    raise SetupError(
        f"What answers at {url} is no llb that hosts can join ({answer.status}): check the address, or upgrade the "
        "llb there."
    )


async def is_same_balancer(url: str, membership: Membership, anchor: str = tls_trust.SYSTEM_TRUST) -> bool:
    """Whether the balancer of `membership` is what answers at `url`, by a proof that tells neither end a secret.

    Raises `SetupError` where nothing answers.
    """
    nonce = secrets.token_hex(16)
    query = urlencode({"node": membership.node_id, "nonce": nonce})
    answer = await _request(
        url, "GET", f"/api/nodes/proof?{query}", verify=tls_trust.get_client_context(anchor)
    )
    try:
        shown = msgspec.json.decode(answer.body, type=_ProofResponse).proof
    except DECODE_ERRORS:
        return False
    return tokens.tokens_equal(
        shown, tokens.balancer_challenge_response(membership.hop_credential, membership.node_id, nonce)
    )


async def notify_leave(membership: Membership) -> str | None:
    """Tell the balancer that this node leaves. Returns why it could not be told, None if it was."""
    headers = {"Authorization": f"Bearer {membership.credential}"}
    try:
        answer = await asyncio.to_thread(
            _send_request,
            "POST",
            f"{membership.balancer_url}/api/nodes/leave",
            headers=headers,
            verify=tls_trust.get_client_context(membership.anchor),
        )
    except _NoResponse as failure:
        return str(failure)
    # 401: it was removed there before.
    return None if answer.status in (204, 401) else f"it answers {answer.status}"


class _NoResponse(Exception):
    """Nothing that can be read came back; the message says why, in a few words."""


async def _request(
    url: str, method: str, path: str, body: bytes = b"", *, verify: ssl.SSLContext | None = None
) -> _HttpResponse:
    """What the llb at `url` answers; raises `SetupError` where nothing does."""
    try:
        return await asyncio.to_thread(_send_request, method, url + path, body, verify=verify)
    except _NoResponse as failure:
        raise SetupError(
            f"The llb at {url} cannot be reached ({failure}): check the address, and that it listens for other hosts "
            "(--host 0.0.0.0)."
        ) from None


def _send_request(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    verify: ssl.SSLContext | None = None,
) -> _HttpResponse:
    """Blocking, within a deadline however slowly the other end speaks; raises `_NoAnswer`."""
    import httpx2  # here: what a host that has joined long ago does without

    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    given = {**headers, "Content-Type": "application/json"} if body else headers
    try:
        with (
            httpx2.Client(
                timeout=REQUEST_TIMEOUT_S,
                trust_env=False,
                verify=verify or tls_trust.get_client_context(tls_trust.SYSTEM_TRUST),
            ) as client,
            client.stream(method, url, content=body, headers=given) as answer,
        ):
            read = b""
            for piece in answer.iter_bytes():
                read += piece
                if len(read) > MAX_RESPONSE_BYTES or time.monotonic() > deadline:
                    break
            return _HttpResponse(answer.status_code, answer.headers, read)
    except httpx2.TimeoutException:
        raise _NoResponse("it does not answer") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _NoResponse(_root_cause_message(error)) from None


def _root_cause_message(error: BaseException) -> str:
    """The first cause of `error`, in a few words."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()


# --- the link ----------------------------------------------------------------------------------------


class _NoRedirectConnect(connect):
    """A balancer that lends itself to another leads there; a node belongs to the one that it joined."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class ControlLinkClient:
    """Keeps the link of a joined host standing. `problem` says why it does not stand, as a sentence without an address."""

    def __init__(self, membership: Membership, agent: NodeAgent) -> None:
        self.problem: str | None = "the balancer has not answered yet"
        # True when the link is established, False when it has ended.
        self.link_changed: Topic[bool] = Topic()
        self._membership = membership
        self._agent = agent

    async def run(self) -> None:
        """Dial, serve, and dial again, until cancelled."""
        pause_s = BACKOFF_INITIAL_S
        while True:
            began = time.monotonic()
            try:
                refused = await self._connect_once()
            except Exception:
                # A defect of ours costs the link, never the node: both ends begin anew with their whole state.
                log.exception("the link to the balancer failed")
                refused = self._record_problem(
                    "the link to the balancer failed for a reason that the log tells", is_rejected=False
                )
            if refused:
                pause_s = REJECTED_RETRY_DELAY_S
            elif time.monotonic() - began > BACKOFF_RESET_AFTER_S:
                pause_s = BACKOFF_INITIAL_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # nodes must not return in step
            pause_s = min(BACKOFF_MAX_S, pause_s * 2)

    async def _connect_once(self) -> bool:
        """One link, to its end. True if the balancer sent this node away, which will not change soon."""
        try:
            sock = await connect_socket(self._membership.balancer_url)
            enable_dead_peer_detection(sock)
            async with _NoRedirectConnect(
                _websocket_url(self._membership.balancer_url),
                sock=sock,
                additional_headers={"Authorization": f"Bearer {self._membership.credential}"},
                ssl=tls_trust.get_client_context(self._membership.anchor)
                if self._membership.balancer_url.startswith("https:")
                else None,
                proxy=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=WEBSOCKET_OPEN_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PONG_TIMEOUT_S,
                close_timeout=1.0,
            ) as socket:
                link: WebSocketLink[NodeMessage, BalancerMessage] = WebSocketLink(
                    socket, decode_balancer_message
                )
                self.link_changed.publish(True)
                try:
                    await self._agent.run_link(link)
                finally:
                    self.link_changed.publish(False)
        except InvalidStatus as answer:
            return self._handle_rejection(answer.response.status_code)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            return self._record_problem(
                f"the balancer cannot be reached: {_root_cause_message(error)}", is_rejected=False
            )
        if link.rejection_message is not None:
            return self._record_problem(link.rejection_message, is_rejected=True)
        return self._record_problem("the link to the balancer broke", is_rejected=False)

    def _handle_rejection(self, status: int) -> bool:
        if status == 401:
            return self._record_problem(
                "the balancer does not know this node any more: run 'llb leave'; then it stands alone, or joins again "
                "with a new token",
                is_rejected=True,
            )
        if status == _MISDIRECTED_REQUEST:
            return self._record_problem(
                "the balancer is not known by the name that this node calls it by: start it with --allowed-host",
                is_rejected=False,
            )
        if 300 <= status < 400:
            return self._record_problem(
                "the llb at the balancer's address leads elsewhere, perhaps it lends itself to another one now: "
                "run 'llb leave', and join that one",
                is_rejected=True,
            )
        return self._record_problem(
            f"what answers at the balancer's address is no llb that nodes can join ({status})",
            is_rejected=False,
        )

    def _record_problem(self, problem: str, is_rejected: bool) -> bool:
        """Say why the link does not stand, once however often it is tried; returns `refused`."""
        if problem != self.problem:
            self.problem = problem
            level = logging.ERROR if is_rejected else logging.WARNING
            log.log(level, "no link to %s: %s; it is tried again", self._membership.balancer_url, problem)
        return is_rejected

    def on_welcome(self, _welcome: Welcome) -> None:
        """The balancer has accepted this node."""
        self.problem = None
        log.info("connected to %s", self._membership.balancer_url)


def _websocket_url(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl() + "/ws/nodes"
