"""Hop answer: the answer of an engine of this node to a request of its balancer.

Callbacks pass it on while it is ordinary: the engine is loaded and answers 200, and the balancer reads.
Anything else is left to a task, which continues the answer with the same lease and the same response.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import copy_context
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from msgspec import Struct
from sanic.response import HTTPResponse

from llb import errors
from llb.api.head_facts import facts_of, request_id_of
from llb.api.incoming_request import BegunListener, DirectRequest, IncomingRequest
from llb.api.internode.proxy import (
    HEADER_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    MAX_WHOLE_BYTES,
    InFlightCounter,
    make_response_head,
    proxy_response,
    select_headers,
)
from llb.api.query_params import float_query_param
from llb.api.responses import error_response
from llb.base.logs import log_setup
from llb.engine.lease import Lease
from llb.engine.pool import EnginePool
from llb.engine.watch_policy import Blame, EngineSpeed
from llb.gateway.engine_exchange import ENGINE_END_TIMEOUT_S, target_of
from llb.gateway.http.client import BegunRequest, HttpClient
from llb.gateway.http.engine_errors import NODE_ERROR_HEADER, error_from_blame
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError, UpstreamTimeout
from llb.gateway.stream.keepalive import ClientPipe
from llb.gateway.stream.relay import error_from_transport_error
from llb.node.agent import NodeAgent
from llb.policy.keep_alive import KeepAlive

log = logging.getLogger(__name__)

HOP_PREFIX = "/hop"
FORWARDED_HEADERS = ("content-type", "traceparent", "tracestate")
CONNECT_TIMEOUT_S = 5.0
# Longest load for a balancer that names no time.
DEFAULT_LOAD_S = 60.0


class HopQuery(Struct, frozen=True):
    """Parameters of the balancer in the address of a request."""

    model_id: str
    speed: EngineSpeed
    keep_alive: KeepAlive | None
    load_s: float
    # An older balancer would take a response with a trailer for a complete one.
    takes_trailers: bool


class _Arguments(Struct):
    args: Mapping[str, Any]


# The same for most requests of a model: it has no text of a caller.
@lru_cache(maxsize=256)
def parse_hop_query(query: str) -> HopQuery:
    """Parse the query of a request. Raises `InvalidRequest`."""
    given = _Arguments(dict(reversed(parse_qsl(query))))
    keep_alive = None
    if (seconds := float_query_param(given, "keep_alive_s")) is not None:
        keep_alive = KeepAlive(seconds)
    elif (seconds := float_query_param(given, "min_keep_alive_s")) is not None:
        keep_alive = KeepAlive(seconds, may_shorten=False)
    return HopQuery(
        model_id=given.args.get("model") or "",
        speed=EngineSpeed(
            float_query_param(given, "prefill_tokens_per_s"), float_query_param(given, "decode_tokens_per_s")
        ),
        keep_alive=keep_alive,
        # Read before it is known whether it is needed: a malformed one is always refused.
        load_s=float_query_param(given, "load_s") or DEFAULT_LOAD_S,
        takes_trailers=bool(given.args.get("blame")),
    )


def node_error_response(request: IncomingRequest, error: errors.LlbError, model_id: object) -> HTTPResponse:
    """Return the response to an error, with the header from which the balancer restores it."""
    log.warning("%s for %s failed: %s", request.path, model_id, error.message)
    response = error_response(error)
    response.headers[NODE_ERROR_HEADER.decode("ascii")] = error.hop_code or error.code
    return response


class HopContext(Struct, frozen=True):
    """What the hop answers of a process use."""

    agent: NodeAgent
    engine_pool: EnginePool
    http_client: HttpClient
    in_flight: InFlightCounter

    def begin_direct(self, request: DirectRequest) -> BegunHop | None:
        """Begin to answer a request whose engine is loaded; None, without any effect, for all others."""
        try:
            query = parse_hop_query(request.query_string)
            lease = self.engine_pool.lease_loaded(query.model_id, query.keep_alive)
        except errors.LlbError:
            return None
        if lease is None:
            return None
        engine_path = request.path.removeprefix(HOP_PREFIX).encode("ascii")
        return BegunHop(HopAnswer(self, request, engine_path, query, lease), request)


class HopAnswer:
    """Lease, request to the engine and response of one request. `relay` answers it in a task."""

    __slots__ = ("_begun", "_context", "_is_open", "_path", "_request", "lease", "query", "started")

    def __init__(
        self,
        context: HopContext,
        request: IncomingRequest,
        engine_path: bytes,
        query: HopQuery,
        lease: Lease | None = None,
    ) -> None:
        """Without a `lease` one is acquired."""
        self._context = context
        self._request = request
        self._path = engine_path
        self.query = query
        self.lease = lease
        # None while nothing was sent.
        self._begun: BegunRequest | None = None
        # The response to the balancer; None before its first bytes.
        self.started: Any = None
        self._is_open = True
        context.in_flight.begin()

    def send(self) -> BegunRequest:
        """Send the request to the engine, if a connection is idle."""
        request, lease = self._request, self.lease
        assert lease is not None  # noqa: S101  # it was acquired
        lease.begin_request(len(request.body), self.query.speed)
        begun = self._begun = self._context.http_client.begin_request(
            target_of(lease),
            b"POST",
            self._path,
            select_headers(request, FORWARDED_HEADERS),
            request.body,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            header_timeout_s=HEADER_TIMEOUT_S,
        )
        if begun.response is not None:
            lease.follow_answer(begun.response)
        return begun

    def release(self) -> None:
        """Give back lease and connection; idempotent. An incomplete answer is cancelled."""
        if self._is_open:
            self._is_open = False
            if self._begun is not None:
                self._begun.close()
            if self.lease is not None:
                self.lease.release()
            self._context.in_flight.end()

    def log_status(self, response: UpstreamResponse) -> None:
        """Log the status of the engine's answer."""
        log.debug("%s for %s: %s", self._path.decode(), self.query.model_id, response.status)

    async def relay(self) -> None:
        """Complete the answer. Raises `LlbError` only while nothing is written."""
        query, agent = self.query, self._context.agent
        try:
            if self.lease is None:
                self.lease = await agent.acquire_lease(
                    query.model_id, deadline_s=query.load_s, keep_alive=query.keep_alive
                )
            await self._relay(self.lease)
        finally:
            self.release()

    async def _relay(self, lease: Lease) -> None:
        async def wait_for_blame(_failure: TransportError) -> Blame | None:
            return await lease.wait_for_blame(ENGINE_END_TIMEOUT_S)

        try:
            response = await (self._begun or self.send()).wait()
            lease.follow_answer(response)
            self.log_status(response)
            await proxy_response(
                self._request,
                response,
                get_blame=wait_for_blame if self.query.takes_trailers else None,
                started=self.started,
            )
        except TransportError as error:
            if (blame := await wait_for_blame(error)) is not None:
                raise error_from_blame(blame, self.query.model_id) from error
            lease.report_suspected_failure()
            raise error_from_transport_error(error) from error


class BegunHop:
    """`BegunAnswer` to a request whose engine is leased."""

    __slots__ = (
        "_answer",
        "_begun",
        "_failure",
        "_is_connecting",
        "_is_interrupted",
        "_listener",
        "_pipe",
        "_request",
        "_response",
        "_seen_bytes",
    )

    def __init__(self, answer: HopAnswer, request: DirectRequest) -> None:
        self._answer = answer
        self._request = request
        # Until `start`.
        self._begun: BegunRequest
        self._listener: BegunListener
        # None while there is no connection for the request.
        self._response: UpstreamResponse | None = None
        self._is_connecting = False
        # Way of the rest to the balancer, once the response has begun.
        self._pipe: ClientPipe | None = None
        self._seen_bytes = 0
        # Error of a callback; the task that takes over raises it.
        self._failure: Exception | None = None
        self._is_interrupted = False

    def start(self, listener: BegunListener) -> bool:
        """Send the request, and let callbacks pass the answer on."""
        self._listener = listener
        begun = self._begun = self._answer.send()
        if begun.response is None:
            # The engine closes its connection after each stream.
            self._is_connecting = True
            begun.begin_connect(self._on_connected)
        else:
            self._observe(begun.response)
        return True

    def interrupt(self) -> None:
        """Let a task release the lease and the connection: the balancer has left."""
        self._is_interrupted = True
        self._stop()

    async def resume(self) -> None:
        """Complete the answer."""
        try:
            if self._is_interrupted:
                raise asyncio.CancelledError
            if self._failure is not None:
                raise self._failure
            await self._answer.relay()
        except errors.LlbError as error:
            response = node_error_response(self._request, error, self._answer.query.model_id)
            writer = await self._request.respond(response)
            await writer.send(response.body or b"", True)
        finally:
            self._answer.release()

    # --- callbacks ---

    def _observe(self, response: UpstreamResponse) -> None:
        self._response = response
        response.observe(self._on_progress, HEADER_TIMEOUT_S)

    def _on_connected(self) -> None:
        """The request was sent over a new connection; without a response it could not be."""
        response = self._begun.response
        if not self._is_connecting:
            # A task has taken over.
            return
        self._is_connecting = False
        if response is None:
            self._stop()
            return
        lease = self._answer.lease
        assert lease is not None  # noqa: S101  # of `HopContext.begin_direct`
        lease.follow_answer(response)
        self._observe(response)
        if response.status or response.error is not None:
            self._on_progress(True)

    def _stop(self) -> None:
        """Leave the rest of the answer to a task."""
        self._is_connecting = False
        if self._response is not None:
            self._response.stop_observing()
        self._listener.take_over()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._stop()

    def _on_progress(self, has_data: bool) -> None:
        """Handle new bytes before the response has begun."""
        response = self._response
        assert response is not None  # noqa: S101  # it is observed
        try:
            if not has_data:
                self._on_silence(response)
            elif response.error is not None or response.status != 200:
                self._stop()
            elif response.is_complete:
                self._answer_whole(response)
            elif response.chunks:
                self._open_stream(response)
            else:
                self._begun.begin_relay()
        except Exception as error:
            # This runs in a callback of the transport; the task that takes over raises it.
            self._fail(error)

    def _answer_whole(self, response: UpstreamResponse) -> None:
        whole = response.take_whole(MAX_WHOLE_BYTES)
        if not whole:
            self._stop()
            return
        self._request.answer_alike(_key_of(response), lambda: make_response_head(response), whole)
        self._finish(response)

    def _open_stream(self, response: UpstreamResponse) -> None:
        """Begin the response with the first bytes of its body."""
        self._begun.begin_relay()
        started = self._request.respond_alike(_key_of(response), lambda: make_response_head(response))
        self._answer.started = started
        started.send_now(response.take(), False)
        self._pipe = started.open_pipe()
        response.observe(self._pass_on, IDLE_TIMEOUT_S)
        response.pass_frame = self._pass_frame

    def _pass_on(self, has_data: bool) -> None:
        """Pass bytes on as they arrive."""
        response, pipe = self._response, self._pipe
        assert response is not None  # noqa: S101  # as above
        assert pipe is not None  # noqa: S101  # the response has begun
        try:
            may_continue = not response.chunks or pipe.write_chunk(response.take())
            if response.error is not None or not may_continue:
                self._stop()
            elif response.is_complete:
                self._answer.started.send_now(b"", True)
                self._finish(response)
            elif not has_data:
                self._on_silence(response)
        except Exception as error:
            # As in `_on_progress`.
            self._fail(error)

    def _pass_frame(self, events: bytes, frame: bytes) -> None:
        """Pass a chunk of whole events on unchanged. Hot path: most tokens come as such chunks."""
        assert self._pipe is not None  # noqa: S101  # as above
        try:
            if not self._pipe.write_frame(events, frame, False):
                self._stop()
        except Exception as error:
            # As in `_on_progress`.
            self._fail(error)

    def _on_silence(self, response: UpstreamResponse) -> None:
        """End an answer without new bytes since the previous check."""
        if response.total_bytes == self._seen_bytes:
            # The observer is called, as for any failure.
            response.close(UpstreamTimeout("idle" if response.status else "header"))
            return
        self._seen_bytes = response.total_bytes
        response.start_wait(IDLE_TIMEOUT_S)

    def _finish(self, response: UpstreamResponse) -> None:
        """The balancer has the whole answer."""
        response.stop_observing()
        if log.isEnabledFor(logging.DEBUG):
            copy_context().run(self._log_status, response)
        self._answer.release()
        self._listener.end_directly()

    def _log_status(self, response: UpstreamResponse) -> None:
        """Logged in a context of its own, because the callback's context is shared with other requests."""
        log_setup.bind_request(request_id_of(self._request), facts_of(self._request).trace_id)
        self._answer.log_status(response)


def _key_of(response: UpstreamResponse) -> tuple[int, bytes]:
    return response.status, response.content_type
