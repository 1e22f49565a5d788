"""Path resolver: finds the route for a client with a slightly wrong base URL.

Clients append `/chat/completions`, `/v1/messages` or `/api/chat` to the base URL that a person has entered,
which may lack `/v1`, have it twice, or end with a slash. Only the routes of the dialects are found this way.
All others have one address each, because the rules of a reverse proxy may depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

from httptools import parse_url
from sanic import Request
from sanic.exceptions import MethodNotAllowed, SanicException

PAGE_OF_MODELS = "/models"
_KEY_HEADERS = ("authorization", "x-api-key")


class PathResolver:
    """Sets the path of a request to that of its route."""

    def __init__(
        self, *, base_path: str = "", find_alias: Callable[[str], str | None] = lambda _path: None
    ) -> None:
        """`base_path` is cut off where it comes first; `find_alias` returns the path that was meant."""
        self._base_path = base_path
        self._find_alias = find_alias

    def resolve(self, request: Request) -> None:
        """Set the path, and let the handler of GET answer a HEAD that has no handler of its own."""
        path = request.path
        if self._base_path and (path == self._base_path or path.startswith(self._base_path + "/")):
            path = path[len(self._base_path) :] or "/"
            _set_path(request, path)
        if not self._has_own_route(request, path) and (alias := self._find_alias(path)) is not None:
            _set_path(request, alias)
        if request.method == "HEAD" and "upgrade" not in request.headers:
            self._route_head_as_get(request)

    @staticmethod
    def _has_own_route(request: Request, path: str) -> bool:
        """Whether `path` is that of a route as it is; routes with parameters are not asked."""
        if path.startswith(PAGE_OF_MODELS):
            # The page has this address too, and a browser that opens it sends no key.
            return not any(name in request.headers for name in _KEY_HEADERS) and _finds(request, path)
        return tuple(path.rstrip("/")[1:].split("/")) in request.app.router.static_routes

    @staticmethod
    def _route_head_as_get(request: Request) -> None:
        try:
            request.app.router.get(request.path, "HEAD", request.headers.getone("host", None))
        except MethodNotAllowed:
            request.method = "GET"
        except SanicException:
            # Sanic answers with 404.
            pass


def _finds(request: Request, path: str) -> bool:
    try:
        request.app.router.get(path, "GET", request.headers.getone("host", None))
    except SanicException:
        return False
    return True


def _set_path(request: Request, path: str) -> None:
    query = request.query_string
    request._parsed_url = parse_url((f"{path}?{query}" if query else path).encode())
