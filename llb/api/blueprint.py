"""Blueprint: the base of every module of routes."""

from __future__ import annotations

from typing import Any

import sanic

# `install_error_handler` formats every error. Without an explicit format Sanic reads and parses the source of
# each handler to guess one, which takes 80 ms of a start.
SANIC_ERROR_FORMAT = "json"


class Blueprint(sanic.Blueprint):
    """Sanic blueprint whose routes leave the format of errors to `llb.api.middleware.error_handler`."""

    def route(self, *args: Any, **kwargs: Any) -> Any:
        """Declare a route, as Sanic's `route` does."""
        return super().route(*args, **{**kwargs, "error_format": SANIC_ERROR_FORMAT})
