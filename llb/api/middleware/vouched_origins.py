"""Vouched origins: the origin of the page of a session, where a proxy passes on Host without its port.

Browsers say `Sec-Fetch-Site: same-origin` with requests of the server's own page, which no other page can.
With WebSockets Chromium does not. So the origin that the page names in such a request is remembered for its
session.
"""

from __future__ import annotations

from collections import OrderedDict

from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.client_info import ClientInfo, WebOrigin, parse_origin
from llb.security import tokens

# The browser sends no Origin with a GET, so the page names its own.
PAGE_ORIGIN_HEADER = "x-page-origin"
_MAX_SESSIONS = 10_000


class VouchedOrigins:
    """Origins of pages, by the session that they use."""

    def __init__(self) -> None:
        self._by_session: OrderedDict[str, WebOrigin] = OrderedDict()

    def record(self, request: IncomingRequest, client: ClientInfo, session_token: str) -> None:
        """Remember the origin that the page of a valid session names, if its browser vouches for it."""
        named = request.headers.get(PAGE_ORIGIN_HEADER)
        if (
            not client.is_port_unknown
            or named is None
            or request.headers.get("sec-fetch-site") != "same-origin"
        ):
            return
        origin = parse_origin(named)
        if origin is None or origin[:2] != client.origin[:2]:
            return
        key = tokens.hash_token(session_token)
        self._by_session[key] = origin
        self._by_session.move_to_end(key)
        if len(self._by_session) > _MAX_SESSIONS:
            self._by_session.popitem(last=False)

    def find(self, client: ClientInfo, session_token: str | None) -> WebOrigin | None:
        """Return the origin of the page of a session, with the scheme and name by which `client` calls."""
        if not client.is_port_unknown or not session_token:
            return None
        origin = self._by_session.get(tokens.hash_token(session_token))
        return origin if origin is not None and origin[:2] == client.origin[:2] else None
