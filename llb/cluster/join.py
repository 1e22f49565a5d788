"""A node's side of belonging to a balancer: asking to be let in, and dialling its link for as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlencode, urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from llb import auth, trust
from llb.cluster.dialling import open_socket, watch
from llb.cluster.sockets import MAX_MESSAGE_BYTES, SocketLink, from_balancer
from llb.errors import SetupError
from llb.membership import Membership
from llb.node.agent import NodeAgent
from llb.wire import BalancerMessage, JoinReply, JoinRequest, NodeMessage, Welcome
from llb.wire.reading import UNREADABLE

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 65_536
OPEN_TIMEOUT_S = 5.0
# A host that has vanished is noticed by the kernel (`dialling.watch`); these are for a program that hangs.
PING_EVERY_S, PONG_WITHIN_S = 5.0, 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 1.0
REFUSED_PAUSE_S = 60.0  # a sentence for the operator will not change sooner
STEADY_S = 10.0  # a link that held for so long was good: the next pause is short again
# With which an llb refuses; whatever else answers is none.
_REFUSALS = frozenset({400, 401, 403, 409, 429, 503})
_UNKNOWN_HOST = 421
CERTIFICATE_PATH = "/api/tls/certificate"


# --- asked once --------------------------------------------------------------------------------------


class _ErrorFields(msgspec.Struct):
    message: str
    code: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields


class _Proof(msgspec.Struct):
    proof: str


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def refusal(self) -> str | None:
        """The sentence with which an llb refuses; None if this is none."""
        if self.status not in _REFUSALS:
            return None
        try:
            return msgspec.json.decode(self.body, type=_ErrorBody).error.message
        except UNREADABLE:
            return None


async def anchor_of(url: str, fingerprint: str | None) -> str:
    """By what the llb at `url` is to be believed, if its certificate has this fingerprint. Raises `SetupError`.

    Nothing is told to whoever answers before that is known.
    """
    if not url.startswith("https:"):
        if fingerprint is None:
            return trust.SYSTEM
        raise SetupError(
            f"The token is of an llb that speaks TLS: join it as https{url.removeprefix('http')}."
        )
    if fingerprint is None:
        return trust.SYSTEM
    try:
        await asyncio.to_thread(_ask, "GET", url + CERTIFICATE_PATH)
        return trust.SYSTEM  # so it may change its certificate as it likes
    except _NoAnswer:
        pass
    answer = await _reached(url, "GET", CERTIFICATE_PATH, verify=trust.unverified())
    try:
        anchor = answer.body.decode("ascii")
        if auth.same_token(trust.fingerprint(anchor), fingerprint):
            trust.context(anchor)
            return anchor
    except ValueError:
        pass
    raise SetupError(
        f"What answers at {url} is not the llb that made the token: its certificate is another one. Check the address, "
        "and who is on the way; if the llb there has a new certificate, make a new token."
    )


async def ask_to_join(url: str, request: JoinRequest, anchor: str = trust.SYSTEM) -> JoinReply:
    """Be let in by the balancer at `url`. Raises `SetupError` with a sentence that says what to do."""
    answer = await _reached(
        url, "POST", "/api/nodes/join", msgspec.json.encode(request), verify=trust.context(anchor)
    )
    if answer.status == 201:
        try:
            return msgspec.json.decode(answer.body, type=JoinReply)
        except UNREADABLE:
            pass
    if answer.status == _UNKNOWN_HOST:
        raise SetupError(
            f"The llb at {url} is not known by that name there: join it by its IP address, or start it with "
            f"--allowed-host {urlsplit(url).hostname}."
        )
    refusal, elsewhere = answer.refusal, answer.headers.get("location")
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


async def knows_each_other(url: str, membership: Membership, anchor: str = trust.SYSTEM) -> bool:
    """Whether the balancer of `membership` is what answers at `url`, by a proof that tells neither end a secret.

    Raises `SetupError` where nothing answers.
    """
    nonce = secrets.token_hex(16)
    query = urlencode({"node": membership.node_id, "nonce": nonce})
    answer = await _reached(url, "GET", f"/api/nodes/proof?{query}", verify=trust.context(anchor))
    try:
        shown = msgspec.json.decode(answer.body, type=_Proof).proof
    except UNREADABLE:
        return False
    return auth.same_token(shown, auth.prove_balancer(membership.hop_credential, membership.node_id, nonce))


async def say_goodbye(membership: Membership) -> str | None:
    """Tell the balancer that this node leaves. Returns why it could not be told, None if it was."""
    headers = {"Authorization": f"Bearer {membership.credential}"}
    try:
        answer = await asyncio.to_thread(
            _ask,
            "POST",
            f"{membership.balancer_url}/api/nodes/leave",
            headers=headers,
            verify=trust.context(membership.anchor),
        )
    except _NoAnswer as failure:
        return str(failure)
    # 401: it was removed there before.
    return None if answer.status in (204, 401) else f"it answers {answer.status}"


class _NoAnswer(Exception):
    """Nothing that can be read came back; the message says why, in a few words."""


async def _reached(
    url: str, method: str, path: str, body: bytes = b"", *, verify: ssl.SSLContext | None = None
) -> _Answer:
    """What the llb at `url` answers; raises `SetupError` where nothing does."""
    try:
        return await asyncio.to_thread(_ask, method, url + path, body, verify=verify)
    except _NoAnswer as failure:
        raise SetupError(
            f"The llb at {url} cannot be reached ({failure}): check the address, and that it listens for other hosts "
            "(--host 0.0.0.0)."
        ) from None


def _ask(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    verify: ssl.SSLContext | None = None,
) -> _Answer:
    """Blocking, within a deadline however slowly the other end speaks; raises `_NoAnswer`."""
    import httpx2  # here: what a host that has joined long ago does without

    deadline = time.monotonic() + ASK_TIMEOUT_S
    given = {**headers, "Content-Type": "application/json"} if body else headers
    try:
        with (
            httpx2.Client(
                timeout=ASK_TIMEOUT_S, trust_env=False, verify=verify or trust.context(trust.SYSTEM)
            ) as client,
            client.stream(method, url, content=body, headers=given) as answer,
        ):
            read = b""
            for piece in answer.iter_bytes():
                read += piece
                if len(read) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    break
            return _Answer(answer.status_code, answer.headers, read)
    except httpx2.TimeoutException:
        raise _NoAnswer("it does not answer") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _NoAnswer(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """The first cause of `error`, in a few words."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()


# --- the link ----------------------------------------------------------------------------------------


class _Connect(connect):
    """A balancer that lends itself to another leads there; a node belongs to the one that it joined."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Dialler:
    """Keeps the link of a joined host standing. `problem` says why it does not stand, as a sentence without an address."""

    def __init__(self, membership: Membership, agent: NodeAgent) -> None:
        self.problem: str | None = "the balancer has not answered yet"
        self.on_link: Callable[[bool], None] = lambda _stands: None
        self.on_welcome: Callable[[Welcome], None] = lambda _welcome: None
        self._membership = membership
        self._agent = agent
        agent.on_welcome = self._welcomed

    async def run(self) -> None:
        """Dial, serve, and dial again, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            try:
                refused = await self._serve_once()
            except Exception:
                # A defect of ours costs the link, never the node: both ends begin anew with their whole state.
                log.exception("the link to the balancer failed")
                refused = self._note(
                    "the link to the balancer failed for a reason that the log tells", refused=False
                )
            if refused:
                pause_s = REFUSED_PAUSE_S
            elif time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # nodes must not return in step
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _serve_once(self) -> bool:
        """One link, to its end. True if the balancer sent this node away, which will not change soon."""
        try:
            sock = await open_socket(self._membership.balancer_url)
            watch(sock)
            async with _Connect(
                _websocket_url(self._membership.balancer_url),
                sock=sock,
                additional_headers={"Authorization": f"Bearer {self._membership.credential}"},
                ssl=trust.context(self._membership.anchor)
                if self._membership.balancer_url.startswith("https:")
                else None,
                proxy=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=PING_EVERY_S,
                ping_timeout=PONG_WITHIN_S,
                close_timeout=1.0,
            ) as socket:
                link: SocketLink[NodeMessage, BalancerMessage] = SocketLink(socket, from_balancer)
                self.on_link(True)
                try:
                    await self._agent.run(link)
                finally:
                    self.on_link(False)
        except InvalidStatus as answer:
            return self._turned_away(answer.response.status_code)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            return self._note(f"the balancer cannot be reached: {_reason(error)}", refused=False)
        if link.refusal is not None:
            return self._note(link.refusal, refused=True)
        return self._note("the link to the balancer broke", refused=False)

    def _turned_away(self, status: int) -> bool:
        if status == 401:
            return self._note(
                "the balancer does not know this node any more: run 'llb leave'; then it stands alone, or joins again "
                "with a new token",
                refused=True,
            )
        if status == _UNKNOWN_HOST:
            return self._note(
                "the balancer is not known by the name that this node calls it by: start it with --allowed-host",
                refused=False,
            )
        if 300 <= status < 400:
            return self._note(
                "the llb at the balancer's address leads elsewhere, perhaps it lends itself to another one now: "
                "run 'llb leave', and join that one",
                refused=True,
            )
        return self._note(
            f"what answers at the balancer's address is no llb that nodes can join ({status})", refused=False
        )

    def _note(self, problem: str, refused: bool) -> bool:
        """Say why the link does not stand, once however often it is tried; returns `refused`."""
        if problem != self.problem:
            self.problem = problem
            level = logging.ERROR if refused else logging.WARNING
            log.log(level, "no link to %s: %s; it is tried again", self._membership.balancer_url, problem)
        return refused

    def _welcomed(self, welcome: Welcome) -> None:
        self.problem = None
        log.info("the link to %s stands", self._membership.balancer_url)
        self.on_welcome(welcome)


def _websocket_url(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl() + "/ws/nodes"
