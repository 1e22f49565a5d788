"""Request of an attempt to the engine that it leased, or to another host."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from llb.cluster.view import Node
from llb.engine.lease import Lease
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.http.client import JSON_HEADER, BegunRequest, UpstreamTarget
from llb.gateway.inference_call import InferenceCall
from llb.gateway.nodes.node_connections import BegunNodeRequest
from llb.policy.keep_alive import KeepAlive

# Connecting to an engine of this host.
ENGINE_CONNECT_TIMEOUT_S = 5.0

# The target of an engine is needed again at every request.
_engine_target = lru_cache(maxsize=256)(UpstreamTarget)


def target_of(lease: Lease) -> UpstreamTarget:
    """Return the engine of a lease."""
    return _engine_target(lease.worker.host, lease.worker.port, lease.api_key)


def begin_engine_request(
    context: AttemptContext,
    call: InferenceCall,
    node: Node,
    lease: Lease | None,
    path: bytes,
    body: bytes,
    header_timeout_s: float,
) -> BegunRequest | BegunNodeRequest:
    """Begin to ask the leased engine of this host, or another host, whose hop route leases one of its own.

    Raises `ConnectError`.
    """
    # The body was read as JSON, whatever content type the client gave it.
    headers = (JSON_HEADER, *call.record.trace_headers)
    if lease is not None:
        return context.http_client.begin_request(
            target_of(lease),
            b"POST",
            path,
            headers,
            body,
            connect_timeout_s=ENGINE_CONNECT_TIMEOUT_S,
            header_timeout_s=header_timeout_s,
        )
    speed = context.performance.speed_of(node.id, call.model.id)
    return context.node_connections.begin_request(
        node.id,
        b"POST",
        _hop_path(
            path,
            call.model.id,
            context.get_load_timeout_s(),
            call.keep_alive,
            _rounded(speed.prefill_tokens_per_s),
            _rounded(speed.decode_tokens_per_s),
        ),
        headers,
        body,
        header_timeout_s=header_timeout_s,
        # For the log of that host.
        own_header=(b"x-request-id", call.record.request_id.encode("ascii")),
    )


@lru_cache(maxsize=1024)
def _hop_path(
    path: bytes,
    model_id: str,
    load_s: float,
    keep_alive: KeepAlive | None,
    prefill_tokens_per_s: float | None,
    decode_tokens_per_s: float | None,
) -> bytes:
    """Return the address of a request to another host; most requests of a model have the same."""
    query = f"?model={quote(model_id)}&load_s={load_s:g}&blame=1"
    if keep_alive is not None:
        # A node of an older version does not know the second name, and then keeps its own keep-alive.
        name = "keep_alive_s" if keep_alive.may_shorten else "min_keep_alive_s"
        query += f"&{name}={keep_alive.seconds:g}"
    if prefill_tokens_per_s is not None:
        query += f"&prefill_tokens_per_s={prefill_tokens_per_s:g}"
    if decode_tokens_per_s is not None:
        query += f"&decode_tokens_per_s={decode_tokens_per_s:g}"
    return b"/hop" + path + query.encode("ascii")


def _rounded(speed: float | None) -> float | None:
    """Return a speed with two digits, so that the paths of most requests are the same."""
    return None if speed is None else float(f"{speed:.2g}")
