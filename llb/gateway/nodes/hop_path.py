"""Address of a request at the hop route of another host, with what that host needs to know of the request."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from llb.engine.watch_policy import EngineSpeed
from llb.policy.keep_alive import KeepAlive


def hop_path(
    path: bytes, model_id: str, load_s: float, keep_alive: KeepAlive | None, speed: EngineSpeed
) -> bytes:
    """Return the address of a request for an engine's route `path`, which may wait `load_s` for a load."""
    return _format_path(
        path,
        model_id,
        load_s,
        keep_alive,
        _round_speed(speed.prefill_tokens_per_s),
        _round_speed(speed.decode_tokens_per_s),
    )


# Most requests of a model have the same.
@lru_cache(maxsize=1024)
def _format_path(
    path: bytes,
    model_id: str,
    load_s: float,
    keep_alive: KeepAlive | None,
    prefill_tokens_per_s: float | None,
    decode_tokens_per_s: float | None,
) -> bytes:
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


def _round_speed(tokens_per_s: float | None) -> float | None:
    """Return a speed with two digits, so that the addresses of most requests are the same."""
    return None if tokens_per_s is None else float(f"{tokens_per_s:.2g}")
