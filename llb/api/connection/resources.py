"""Resources that the connections of all listeners share; at `app.ctx.connections`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from llb.api.connection.body_budget import BodyBudget
from llb.api.connection.connection_limiter import ConnectionLimiter
from llb.api.connection.log_throttle import LogThrottle
from llb.api.connection.path_resolver import PathResolver
from llb.api.connection.turns import RequestTurns
from llb.api.connection.websocket import WebSocketLimiter
from llb.api.middleware.client_info import parse_trusted_proxies
from llb.api.request_body import LargeBodyWorker
from llb.config import Config
from llb.security.permissions import Principal

log = logging.getLogger(__name__)


class ConnectionResources:
    """Limits and counters of the connections of a process."""

    def __init__(
        self,
        config: Config,
        *,
        count_upload: Callable[[Principal], AbstractContextManager[None]] = lambda _principal: nullcontext(),
        find_path_alias: Callable[[str], str | None] = lambda _path: None,
    ) -> None:
        """`count_upload` counts a large body against the concurrent requests of a key while it is read.

        `find_path_alias` returns the path of the route that a client means by one without a route.

        Raises `SetupError`.
        """
        self.limiter = ConnectionLimiter(trusted_proxies=parse_trusted_proxies(config))
        self.body_budget = BodyBudget(evict_public_body=self.limiter.evict_anonymous_body)
        # For bodies before they are decoded: the handlers of the routes have a worker of their own.
        self.large_body_worker = LargeBodyWorker()
        self.websocket_limiter = WebSocketLimiter()
        self.turns = RequestTurns()
        self.bad_request_log = LogThrottle(log.info)
        self.count_upload = count_upload
        self.path_resolver = PathResolver(base_path=config.base_path, find_alias=find_path_alias)
