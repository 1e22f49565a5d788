"""Cross-origin requests: protection against forgery (CSRF), and the CORS headers of allowed origins."""

from __future__ import annotations

from sanic import Request
from sanic.response import BaseHTTPResponse, HTTPResponse

from llb.api.middleware.client_info import ClientInfo, parse_origin
from llb.config import Config
from llb.errors import OriginNotAllowed, SetupError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_AGE_S = 600
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# The official clients send these about themselves, and a browser asks for permission for each.
_STAINLESS_HEADERS = (
    "arch",
    "helper-method",
    "lang",
    "os",
    "package-version",
    "retry-count",
    "runtime",
    "runtime-version",
    "timeout",
)
_ALLOWED_HEADERS = ", ".join(
    (
        "authorization, content-type, x-api-key, x-request-id, x-session-id",
        "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access",
        "traceparent, tracestate",
        *(f"x-stainless-{name}" for name in _STAINLESS_HEADERS),
    )
)
_EXPOSED_HEADERS = ", ".join(
    (
        "x-request-id",
        "request-id",
        "retry-after",
        "x-llb-node",
        "x-llb-queue-ms",
        *(
            f"x-ratelimit-{figure}-{unit}"
            for unit in ("requests", "tokens")
            for figure in ("limit", "remaining", "reset")
        ),
    )
)


class CorsPolicy:
    """The origins of `--allowed-origin`, and what their pages may do."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for an allowed origin that is not an origin."""
        self._allows_any_origin = "*" in config.allowed_origins
        self._allowed_origins = frozenset(
            parse_origin(text) for text in config.allowed_origins if text != "*"
        )
        if None in self._allowed_origins:
            raise SetupError("--allowed-origin: give an origin such as https://host:8443, or *.")

    def is_allowed(self, request: Request) -> bool:
        """Whether the request's origin is an allowed one."""
        origins = request.headers.getall("origin", [])
        if len(origins) != 1:
            return False
        return self._allows_any_origin or parse_origin(origins[0]) in self._allowed_origins

    def check_forgery(self, request: Request, *, has_credential: bool) -> None:
        """Raise `OriginNotAllowed` for a cross-origin request that could change state.

        Only a page of an allowed origin that sends a credential itself may do that: a cookie is sent by the
        browser, whatever the page is.
        """
        if can_change_state(request) and not (has_credential and self.is_allowed(request)):
            raise OriginNotAllowed(
                "A page of another origin may not do this; if llb is behind a reverse proxy, name it with "
                "--trusted-proxy"
            )

    def preflight_response(self, request: Request) -> HTTPResponse:
        """Answer a preflight request; raises `OriginNotAllowed`."""
        if not self.is_allowed(request):
            raise OriginNotAllowed("This origin is not allowed to call; allow it with --allowed-origin")
        return HTTPResponse(
            status=204,
            headers={
                "Access-Control-Allow-Methods": _ALLOWED_METHODS,
                "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(MAX_AGE_S),
            },
        )

    def add_headers(self, request: Request, response: BaseHTTPResponse) -> None:
        """Add the CORS headers; none where no other origin is allowed."""
        if not (self._allows_any_origin or self._allowed_origins):
            return
        response.headers.add("Vary", "Origin")
        if self.is_allowed(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS


def is_cross_origin(request: Request, client: ClientInfo) -> bool:
    """Whether a page of another origin sent this request; `same-site` is another origin too."""
    origins = request.headers.getall("origin", [])
    site = request.headers.get("sec-fetch-site")
    if origins and (len(origins) > 1 or parse_origin(origins[0]) != client.origin):
        return True
    # `none` is a person at the address bar: enough to read, and no page changes state that way.
    return site is not None and site != "same-origin" and (can_change_state(request) or site != "none")


def is_preflight(request: Request) -> bool:
    """Whether a browser asks, on behalf of a page, whether it may send a request."""
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def is_from_browser(request: Request) -> bool:
    """Whether a browser sent the request on behalf of a page, of any origin."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def can_change_state(request: Request) -> bool:
    """Whether the request can change something; a WebSocket can, though it begins as a GET."""
    return request.method not in SAFE_METHODS or "websocket" in request.headers.get("upgrade", "").lower()
