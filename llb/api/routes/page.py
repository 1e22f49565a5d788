"""The page: `web/` as it lies on the disk, at addresses that change with its content.

The page's own addresses get `index.html`, which is asked for anew each time. All else is an asset under
`/assets/<version>/`, where the version is one hash over everything: modules that import each other by relative paths
stay together, browsers keep them for good, and an upgrade is seen at once. There is no build step; only the style
sheets that one of them imports are put in their place, since a browser would ask for them one round trip later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import public
from llb.api.reference.operation import InternalRoute
from llb.api.static_content import StaticContent
from llb.base.resources import resource_path
from llb.errors import NotFound, SetupError

PAGE_PATHS = (
    "/",
    "/login",
    "/models",
    "/models/local",
    "/playground",
    "/nodes",
    "/requests",
    "/access",
    "/settings",
    "/docs",
)
INDEX_FILE = "index.html"
ASSETS_PLACEHOLDER = b"{{assets}}"  # in index.html, for the address of the assets

_HTML_CONTENT_TYPE = "text/html; charset=utf-8"
_CONTENT_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_METHODS = ("GET", "HEAD")
_CSS_IMPORT = re.compile(rb"@import '\./([\w-]+\.css)';")
_IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Page:
    """Every file of the page that is served, in memory."""

    version: str
    index: StaticContent
    assets: Mapping[str, StaticContent]  # by their path below `web/`

    @classmethod
    def load(cls, directory: Path) -> Page:
        """Read each file once; raises `SetupError` when there is no page."""
        try:
            index = (directory / INDEX_FILE).read_bytes()
            contents = {
                path.relative_to(directory).as_posix(): path.read_bytes()
                for path in sorted(directory.rglob("*"))
                if path.suffix in _CONTENT_TYPES and path.is_file() and not _is_hidden(path, directory)
            }
        except OSError as error:
            raise SetupError(
                f"The files of the page in {directory} cannot be read: {error.strerror}; install llb again."
            ) from None
        for name in [name for name in contents if name.endswith(".css")]:
            contents[name] = _inline_css_imports(name, contents)
        version = _content_hash({INDEX_FILE: index, **contents})
        return cls(
            version=version,
            index=StaticContent(
                index.replace(ASSETS_PLACEHOLDER, f"/assets/{version}".encode()), _HTML_CONTENT_TYPE
            ),
            assets={
                name: StaticContent(content, _CONTENT_TYPES[Path(name).suffix])
                for name, content in contents.items()
            },
        )


def _is_hidden(path: Path, directory: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _inline_css_imports(name: str, contents: Mapping[str, bytes]) -> bytes:
    """The style sheet with those beside it that it imports; raises `SetupError` where one is not there."""

    def imported(match: re.Match[bytes]) -> bytes:
        beside = Path(name).with_name(match[1].decode()).as_posix()
        if beside not in contents:
            raise SetupError(f"The page's {name} imports {beside}, which is missing; install llb again.")
        return contents[beside]

    return _CSS_IMPORT.sub(imported, contents[name])


def _content_hash(contents: Mapping[str, bytes]) -> str:
    """12 hexadecimal digits that differ when a name or a content does."""
    whole = hashlib.sha256()
    for name, content in contents.items():
        whole.update(f"{name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:12]


def page_blueprint(directory: Path | None = None) -> Blueprint:
    """The page's own addresses and `/assets/<version>/<path>`, from `directory` (None: the shipped page). Raises `SetupError`."""
    blueprint = Blueprint("page")
    page = Page.load(resource_path("web") if directory is None else directory)

    @public
    @InternalRoute("the page")
    async def index(request: Request) -> HTTPResponse:
        return await page.index.conditional_response(request, page.version)

    @public
    @InternalRoute("the page")
    async def asset(request: Request, version: str, path: str) -> HTTPResponse:
        part = page.assets.get(path) if version == page.version else None
        if part is None:
            raise NotFound("The page has no such file, or another version of it")
        body, headers = await part.encode_for(request)
        headers["Cache-Control"] = _IMMUTABLE_CACHE_CONTROL
        return HTTPResponse(body, headers=headers, content_type=part.content_type)

    for number, address in enumerate(PAGE_PATHS):
        blueprint.add_route(index, address, methods=_METHODS, name=f"index{number}")
    blueprint.add_route(asset, "/assets/<version:str>/<path:path>", methods=_METHODS, name="asset")
    return blueprint
