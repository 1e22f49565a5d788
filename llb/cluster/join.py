"""A node's side of belonging to a balancer: asking to be let in, and dialling its link for as long as it lives."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from llb.cluster.sockets import MAX_MESSAGE_BYTES, SocketLink, from_balancer
from llb.errors import SetupError
from llb.membership import Membership
from llb.node.agent import NodeAgent
from llb.wire import BalancerMessage, JoinReply, JoinRequest, NodeMessage

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 5.0
# A balancer that vanished without a word is noticed within the sum of these.
PING_EVERY_S, PONG_WITHIN_S = 5.0, 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
REFUSED_PAUSE_S = 60.0  # a sentence for the operator will not change sooner
STEADY_S = 10.0  # a link that held for so long was good: the next pause is short again


class _ErrorFields(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields


async def ask_to_join(url: str, request: JoinRequest) -> JoinReply:
    """Be let in by the balancer at `url`. Raises `SetupError` with a sentence that says what to do."""
    return await asyncio.to_thread(_ask_to_join, url, request)


def _ask_to_join(url: str, request: JoinRequest) -> JoinReply:
    import httpx2

    try:
        with httpx2.Client(timeout=JOIN_TIMEOUT_S, trust_env=False) as client:
            answer = client.post(
                f"{url}/api/nodes/join",
                content=msgspec.json.encode(request),
                headers={"Content-Type": "application/json"},
            )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise SetupError(
            f"The llb at {url} cannot be reached ({_reason(error)}): check the address, and that it listens for "
            "other hosts (--host 0.0.0.0)."
        ) from None
    try:
        if answer.status_code == 201:
            return msgspec.json.decode(answer.content, type=JoinReply)
        refusal = msgspec.json.decode(answer.content, type=_ErrorBody).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SetupError(f"What answers at {url} is not an llb of this kind: check the address.") from None
    raise SetupError(refusal.rstrip(".") + ".")


async def say_goodbye(membership: Membership) -> None:
    """Tell the balancer that this node leaves; one that cannot be told finds out when it removes the node."""
    await asyncio.to_thread(_say_goodbye, membership)


def _say_goodbye(membership: Membership) -> None:
    import httpx2

    try:
        with httpx2.Client(timeout=JOIN_TIMEOUT_S, trust_env=False) as client:
            client.post(
                f"{membership.balancer_url}/api/nodes/leave",
                headers={"Authorization": f"Bearer {membership.credential}"},
            )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        log.warning(
            "the llb at %s was not told (%s): remove the node there", membership.balancer_url, _reason(error)
        )


def _reason(error: Exception) -> str:
    import httpx2

    if isinstance(error, httpx2.TimeoutException):
        return "it does not answer"
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    return (getattr(cause, "strerror", None) or str(cause) or type(error).__name__).lower()


class Dialler:
    """Keeps the link of a joined host standing. `problem` says why it does not, as a sentence."""

    def __init__(self, membership: Membership, agent: NodeAgent) -> None:
        self.problem: str | None = "the balancer has not answered yet"
        self.on_link: Callable[[bool], None] = lambda _stands: None
        self._membership = membership
        self._agent = agent

    async def run(self) -> None:
        """Dial, serve, and dial again, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            refusal = await self._serve_once()
            if refusal is not None:
                log.error("the balancer refuses this node: %s", refusal)
                pause_s = REFUSED_PAUSE_S
            elif time.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # nodes must not return in step
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _serve_once(self) -> str | None:
        """One link, to its end. Returns the sentence with which the balancer sent this node away, if it did."""
        url = self._membership.balancer_url
        try:
            async with connect(
                _websocket_url(url),
                additional_headers={"Authorization": f"Bearer {self._membership.credential}"},
                proxy=None,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=PING_EVERY_S,
                ping_timeout=PONG_WITHIN_S,
                close_timeout=1.0,
            ) as socket:
                link: SocketLink[NodeMessage, BalancerMessage] = SocketLink(socket, from_balancer)
                self.problem = None
                self.on_link(True)
                try:
                    await self._agent.run(link)
                finally:
                    self.on_link(False)
                self.problem = link.refusal or f"the link to the llb at {url} broke; it is dialled again"
                return link.refusal
        except InvalidStatus as answer:
            if answer.response.status_code == 401:
                self.problem = (
                    f"the llb at {url} does not know this node any more: 'llb leave' lets this host stand alone, "
                    "a new join token lets it join again"
                )
                return self.problem
            self.problem = (
                f"what answers at {url} is no llb that nodes can join ({answer.response.status_code})"
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            self.problem = f"the llb at {url} cannot be reached: {getattr(error, 'strerror', None) or error}"
        log.warning("%s; it is tried again", self.problem)
        return None


def _websocket_url(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl() + "/ws/nodes"
