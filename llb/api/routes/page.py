"""Page routes: the files of `web/`, at addresses that change with their content.

The addresses of the page serve `index.html`, which browsers revalidate each time. Its links to assets are
relative, so that the page works below any path of a reverse proxy. Every other file is an asset under
`/assets/<version>/`, where the version is one hash of all files: modules that import each other by relative
paths stay consistent, browsers cache them for ever, and an upgrade takes effect at once. There is no build
step, except that imported style sheets are inlined: a browser would request them one round trip later.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
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
    "/nodes/endpoints",
    "/requests",
    "/access",
    "/settings",
    "/docs",
)
# Pages of one model, and of the log of one node.
PAGE_PATTERNS = ("/models/<model_id:str>", "/nodes/<node_id:str>/logs")
INDEX_FILE = "index.html"
# Placeholder in index.html for the address of the assets.
ASSETS_PLACEHOLDER = b"{{assets}}"

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
MAX_KEPT_INDEXES = 8
_CSS_IMPORT = re.compile(rb"@import '\./((?:[\w-]+/)*[\w-]+\.css)';")
_IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


class Page(Struct, frozen=True):
    """The files of the page, in memory."""

    version: str
    index: bytes
    # Assets by their path below `web/`.
    assets: Mapping[str, StaticContent]

    @classmethod
    def load(cls, directory: Path) -> Page:
        """Read the files of the page; raises `SetupError` where they cannot be read."""
        try:
            index = (directory / INDEX_FILE).read_bytes()
            contents = {name: (directory / name).read_bytes() for name in sorted(_list_assets(directory))}
        except OSError as error:
            raise SetupError(
                f"Cannot read the files of the page in {directory}: {error.strerror}; install llb again."
            ) from None
        for name in [name for name in contents if name.endswith(".css")]:
            contents[name] = _inline_css_imports(name, contents)
        version = _content_hash({INDEX_FILE: index, **contents})
        return cls(
            version=version,
            index=index,
            assets={
                name: StaticContent(content, _CONTENT_TYPES[Path(name).suffix])
                for name, content in contents.items()
            },
        )

    def index_below(self, base: str) -> StaticContent:
        """Return `index.html` with links to the assets at `base`, such as `..`."""
        links = f"{base}/assets/{self.version}".encode()
        return StaticContent(self.index.replace(ASSETS_PLACEHOLDER, links), _HTML_CONTENT_TYPE)


def _list_assets(directory: Path) -> Iterator[str]:
    """Return the paths below `directory` of the files that are served, with slashes. Raises OSError."""
    # Twice as fast as `Path.rglob`, which matters because it runs at each start.
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(directory / below) as entries:
            for entry in entries:
                name = below + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif name.endswith(tuple(_CONTENT_TYPES)) and entry.is_file():
                    yield name


def _inline_css_imports(name: str, contents: Mapping[str, bytes]) -> bytes:
    """Return the style sheet with its imports inlined; raises `SetupError` for a missing one."""

    def read_import(match: re.Match[bytes]) -> bytes:
        imported = (Path(name).parent / match[1].decode()).as_posix()
        if imported not in contents:
            raise SetupError(f"The page's {name} imports {imported}, which is missing; install llb again.")
        return contents[imported]

    return _CSS_IMPORT.sub(read_import, contents[name])


def _content_hash(contents: Mapping[str, bytes]) -> str:
    """Return 12 hexadecimal digits that depend on every name and content."""
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def assets_base_of(request: Request) -> str:
    """Return what precedes `/assets` in a link of the page at the address of `request`.

    Relative, because behind a proxy that cuts off a path, the server knows only the rest. A known base path
    is used: at that path without a final slash, a relative link would lead out of it.
    """
    if base_path := request.ctx.client.base_path:
        return str(base_path)
    depth = request.path.count("/") - 1
    return "/".join([".."] * depth) or "."


def page_blueprint(directory: Path | None = None) -> Blueprint:
    """`PAGE_PATHS` and `/assets/<version>/<path>`, from `directory` or as shipped; raises `SetupError`."""
    blueprint = Blueprint("page")
    page = Page.load(resource_path("web") if directory is None else directory)
    # A proxy may name many paths, so few are kept.
    index_of = lru_cache(maxsize=MAX_KEPT_INDEXES)(page.index_below)

    @public
    @InternalRoute("page")
    async def index(request: Request, **_parameters: str) -> HTTPResponse:
        base = assets_base_of(request)
        version = page.version if base == "." else f"{page.version}-{_content_hash({base: b''})}"
        return await index_of(base).conditional_response(request, version)

    @public
    @InternalRoute("page")
    async def asset(request: Request, version: str, path: str) -> HTTPResponse:
        content = page.assets.get(path) if version == page.version else None
        if content is None:
            raise NotFound("This version of the page has no such file")
        body, headers = await content.encode_for(request)
        headers["Cache-Control"] = _IMMUTABLE_CACHE_CONTROL
        return HTTPResponse(body, headers=headers, content_type=content.content_type)

    for number, address in enumerate((*PAGE_PATHS, *PAGE_PATTERNS)):
        blueprint.add_route(index, address, methods=_METHODS, name=f"index{number}")
    blueprint.add_route(asset, "/assets/<version:str>/<path:path>", methods=_METHODS, name="asset")
    return blueprint
