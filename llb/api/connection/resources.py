"""What the connections of all listeners share; at `app.ctx.connections`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from llb.api.connection.body_budget import BodyBudget
from llb.api.connection.connection_limiter import ConnectionLimiter
from llb.api.connection.log_throttle import LogThrottle
from llb.api.connection.websocket import WebSocketLimiter
from llb.security.permissions import Principal

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ConnectionResources:
    """Limits and counters of the connections of a process."""

    limiter: ConnectionLimiter
    body_budget: BodyBudget = field(default_factory=BodyBudget)
    websocket_limiter: WebSocketLimiter = field(default_factory=WebSocketLimiter)
    bad_request_log: LogThrottle = field(default_factory=lambda: LogThrottle(log.info))
    # Counts a large body against the concurrent requests of a key while it is read. Raises `RateLimited`.
    count_upload: Callable[[Principal], AbstractContextManager[None]] = lambda _principal: nullcontext()
