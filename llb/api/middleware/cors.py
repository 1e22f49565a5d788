"""Cross-origin requests: protection against forgery (CSRF), and the CORS headers of allowed origins."""

from __future__ import annotations

import re
from functools import lru_cache

from sanic.response import BaseHTTPResponse, HTTPResponse

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.client_info import ClientInfo, WebOrigin, format_origin, parse_origin
from llb.config import Config
from llb.errors import OriginNotAllowed, SetupError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_AGE_S = 600
# RFC 9110, 5.1: a list of header names.
_HEADER_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+([ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
# Origin of a browser extension, or of a program whose window is a page, such as `tauri://localhost`.
_OTHER_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~%:\[\]-]*)")
_WEB_SCHEMES = frozenset({"http", "https"})
_SHOWN_ORIGIN = re.compile(r"[\x21-\x7e]{1,200}")
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# The official clients send these headers about themselves, and a browser needs permission for each.
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
        "x-llb-ignored",
        *(
            f"x-ratelimit-{figure}-{unit}"
            for unit in ("requests", "tokens")
            for figure in ("limit", "remaining", "reset")
        ),
    )
)


@lru_cache(maxsize=1024)
def normalise_origin(text: str) -> str | None:
    """Return an origin of any scheme as browsers write it; None for `null` and any other text."""
    if (web_origin := parse_origin(text)) is not None:
        return format_origin(web_origin)
    match = _OTHER_ORIGIN.fullmatch(text.lower())
    return None if match is None or match[1] in _WEB_SCHEMES else match[0]


def is_program_origin(text: str) -> bool:
    """Whether an allowed origin is that of extensions or desktop programs, which no web page can have."""
    scheme = text.partition("://")[0].lower()
    return "://" in text and scheme not in _WEB_SCHEMES and scheme != "file"


class CorsPolicy:
    """The origins of `--allowed-origin`, and what their pages may do."""

    def __init__(self, config: Config, *, needs_credential: bool = True) -> None:
        """`needs_credential`: their pages may change state only with a credential of their own.

        Raises `SetupError` for an allowed origin that is not an origin.
        """
        self._needs_credential = needs_credential
        self._allows_any_origin = "*" in config.allowed_origins
        self._allowed_schemes: set[str] = set()
        self._allowed_origins: set[str] = set()
        for text in config.allowed_origins:
            if text != "*":
                self._allow(text)

    def _allow(self, text: str) -> None:
        origin = normalise_origin(text.removesuffix("*") if text.endswith("://*") else text)
        scheme = text.partition("://")[0].lower()
        if origin is None or (text.endswith("*") and scheme in _WEB_SCHEMES):
            raise SetupError(
                f"--allowed-origin: '{text}' is not an origin such as https://host:8443, app://name or "
                "chrome-extension://ID; moz-extension://* stands for all extensions, * for any origin."
            )
        if text.endswith("*"):
            self._allowed_schemes.add(scheme)
        else:
            self._allowed_origins.add(origin)

    def is_allowed(self, request: IncomingRequest) -> bool:
        """Whether the request's origin is an allowed one."""
        origins = request.headers.getall("origin", [])
        if len(origins) != 1:
            return False
        if self._allows_any_origin:
            return True
        origin = normalise_origin(origins[0])
        return origin is not None and (
            origin in self._allowed_origins or origin.partition("://")[0] in self._allowed_schemes
        )

    def check_forgery(self, request: IncomingRequest, client: ClientInfo, *, has_credential: bool) -> None:
        """Raise `OriginNotAllowed` for a cross-origin request that could change state.

        Only a page of an allowed origin that sends a credential itself may do that: a cookie is sent by the
        browser, whatever the page is.
        """
        if can_change_state(request) and not (
            (has_credential or not self._needs_credential) and self.is_allowed(request)
        ):
            raise OriginNotAllowed(self._describe_mismatch(request, client))

    def preflight_response(self, request: IncomingRequest, client: ClientInfo) -> HTTPResponse:
        """Answer a preflight request; raises `OriginNotAllowed`."""
        if not self.is_allowed(request):
            raise OriginNotAllowed(
                f"{self._describe_mismatch(request, client)}. Allow another origin with --allowed-origin"
            )
        asked = ", ".join(request.headers.getall("access-control-request-headers", []))
        headers = {
            "Access-Control-Allow-Methods": _ALLOWED_METHODS,
            # A page of an allowed origin may send whatever it asks for: no header gives it more rights.
            "Access-Control-Allow-Headers": asked if _HEADER_NAMES.fullmatch(asked) else _ALLOWED_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE_S),
            "Vary": "Access-Control-Request-Headers",
        }
        if request.headers.get("access-control-request-private-network") == "true":
            # A page on the internet may call a server on this network.
            headers["Access-Control-Allow-Private-Network"] = "true"
        return HTTPResponse(status=204, headers=headers)

    def _describe_mismatch(self, request: IncomingRequest, client: ClientInfo) -> str:
        """Return a sentence with the two origins that were compared, and the likely cause."""
        origins = request.headers.getall("origin", [])
        shown = (
            origins[0] if len(origins) == 1 and _SHOWN_ORIGIN.fullmatch(origins[0]) else "of no valid form"
        )
        page = (
            f"the origin of the page is {shown}"
            if origins
            else "the browser names another site as its origin"
        )
        sentence = (
            f"A page of another origin may not do this: {page}, that of this server {client.base_origin}"
        )
        if not self._needs_credential:
            return f"{sentence}. This port serves no web pages: use the main port with a key"
        if client.is_port_unknown:
            return (
                f"{sentence}. The reverse proxy does not pass on the port: let it send Host with the port "
                "($http_host in nginx) or X-Forwarded-Port, or give --allowed-host NAME:PORT"
            )
        if client.is_trusted_proxy:
            return f"{sentence}, by the headers of the reverse proxy; docs/proxies.md has complete ones"
        return f"{sentence}; if llb is behind a reverse proxy, name it with --trusted-proxy"

    def add_headers(self, request: IncomingRequest, response: BaseHTTPResponse) -> None:
        """Add the CORS headers; none where no other origin is allowed."""
        if not (self._allows_any_origin or self._allowed_origins or self._allowed_schemes):
            return
        response.headers.add("Vary", "Origin")
        if self.is_allowed(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS


def is_cross_origin(request: IncomingRequest, client: ClientInfo, vouched: WebOrigin | None = None) -> bool:
    """Whether a page of another origin sent this request; `same-site` is another origin too.

    `vouched` is the origin of the page of the session, where the port of `client.origin` is not known.
    """
    origins = request.headers.getall("origin", [])
    site = request.headers.get("sec-fetch-site")
    if origins and (len(origins) > 1 or not _is_own_origin(parse_origin(origins[0]), client, site, vouched)):
        return True
    # `none` is a person at the address bar: enough to read, and no page changes state that way.
    return site is not None and site != "same-origin" and (can_change_state(request) or site != "none")


def _is_own_origin(
    origin: WebOrigin | None, client: ClientInfo, site: str | None, vouched: WebOrigin | None
) -> bool:
    if origin == client.origin or (vouched is not None and origin == vouched):
        return True
    # The browser knows the port that the proxy has left out, and no page can set this header.
    return (
        client.is_port_unknown
        and origin is not None
        and origin[:2] == client.origin[:2]
        and site == "same-origin"
    )


def is_preflight(request: IncomingRequest) -> bool:
    """Whether a browser asks, on behalf of a page, whether it may send a request."""
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def is_from_browser(request: IncomingRequest) -> bool:
    """Whether a browser sent the request on behalf of a page, of any origin."""
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def can_change_state(request: IncomingRequest) -> bool:
    """Whether the request can change something; a WebSocket can, though it begins as a GET."""
    return request.method not in SAFE_METHODS or "websocket" in request.headers.get("upgrade", "").lower()
