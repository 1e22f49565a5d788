"""Page routes: addresses, versioned assets, caching and compression."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.api.routes.page import PAGE_PATHS, Page, page_blueprint
from llb.base.resources import resource_path
from llb.errors import SetupError
from tests.api.http_server import PASSWORD, ApiServer, run_api_server
from tests.conftest import BalancerFactory
from tests.harness import write_catalog

FILES = {
    "index.html": "<script src='{{assets}}/main.js'></script><link href='{{assets}}/icon.svg'>",
    "main.js": "import './core/router.js';\n" * 50,
    "core/router.js": "// ünïcode\n",
    "styles/page.css": "body { margin: 0 }\n" * 50,
    "icon.svg": "<svg xmlns='http://www.w3.org/2000/svg'></svg>",
    "i18n/en.json": "{}",
    "app.webmanifest": "{}",
    "vendor/LICENSE.txt": "Permission is hereby granted\n",
    "icon.png": "\x89PNG" + "a" * 500,
    "font.woff2": "wOF2" + "a" * 500,
    "vendor/renew.py": "print('no')",
    "serve.sh": "echo no",
    "notes.md": "no",
    ".hidden.js": "no",
    ".git/config.txt": "no",
    "other/index.html": "no",
}
CONTENT_TYPES = {
    "main.js": "text/javascript; charset=utf-8",
    "core/router.js": "text/javascript; charset=utf-8",
    "styles/page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml; charset=utf-8",
    "i18n/en.json": "application/json",
    "app.webmanifest": "application/manifest+json",
    "vendor/LICENSE.txt": "text/plain; charset=utf-8",
    "icon.png": "image/png",
    "font.woff2": "font/woff2",
}
GZIP = ("Accept-Encoding", "br, gzip;q=0.8, *;q=0.1")


def write_web(directory: Path, **changes: str) -> Path:
    for name, text in {**FILES, **changes}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


@pytest.fixture
def web(tmp_path: Path) -> Path:
    return write_web(tmp_path / "web")


@pytest.fixture
def version(web: Path) -> str:
    return Page.load(web).version


@pytest.fixture
async def server(tmp_path: Path, web: Path) -> AsyncIterator[ApiServer]:
    """A server with the page."""
    async with run_api_server(tmp_path / "home", page_blueprint(web), admin_password=PASSWORD) as running:
        yield running


def test_a_style_sheet_comes_with_what_it_imports(tmp_path: Path) -> None:
    sheets = {
        "styles/app.css": "/* app */\n@import './parts/page.css';\n",
        "styles/parts/page.css": "body { margin: 0 }\n",
    }
    page = Page.load(write_web(tmp_path / "web", **sheets))
    assert page.assets["styles/app.css"].content == b"/* app */\nbody { margin: 0 }\n\n"
    (tmp_path / "web/styles/parts/page.css").unlink()
    with pytest.raises(SetupError, match=r"styles/app\.css imports styles/parts/page\.css"):
        Page.load(tmp_path / "web")


# --- the page's own addresses ------------------------------------------------------------------------


@pytest.mark.parametrize("address", PAGE_PATHS)
async def test_every_address_of_the_page_is_the_page(server: ApiServer, version: str, address: str) -> None:
    response = await server.call("GET", address)
    assert response.status == 200
    assert response.header("content-type") == "text/html; charset=utf-8"
    assert response.header("cache-control") == "no-cache"
    assert response.header("vary") == "Accept-Encoding"
    etag = str(response.header("etag"))
    assert etag.startswith(f'"{version}')
    assert (await server.call("GET", address, ("If-None-Match", etag))).status == 304
    assert "frame-ancestors 'none'" in str(response.header("content-security-policy"))
    assert response.body.decode() == FILES["index.html"].replace(
        "{{assets}}", f"{'..' if address.count('/') > 1 else '.'}/assets/{version}"
    )


async def test_an_address_that_is_not_the_pages_is_an_error(server: ApiServer) -> None:
    for address in ("/index.html", "/main.js", "/models/remote/x", "/favicon.ico", "/assets", "/web/main.js"):
        response = await server.call("GET", address)
        assert (response.status, response.code) == (404, "not_found")
    assert (await server.call("POST", "/login", json_body={})).status == 405


async def test_who_has_the_page_is_not_sent_it_again(server: ApiServer, version: str) -> None:
    plain, packed = f'"{version}"', f'"{version}-gzip"'
    assert (await server.call("GET", "/", GZIP)).header("etag") == packed
    for held, also in ((plain, ()), (f'"old", W/{plain}', ()), ("*", ()), (packed, (GZIP,))):
        response = await server.call("GET", "/", ("If-None-Match", held), *also)
        assert (response.status, response.body) == (304, b"")
        assert response.header("etag") == (packed if also else plain)
        assert response.header("cache-control") == "no-cache"
    for held in ('"old"', packed, version, ""):
        assert (await server.call("GET", "/", ("If-None-Match", held))).status == 200


# --- assets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTENT_TYPES)
async def test_an_asset_is_kept_for_good(server: ApiServer, version: str, name: str) -> None:
    response = await server.call("GET", f"/assets/{version}/{name}")
    assert response.status == 200
    assert response.header("content-type") == CONTENT_TYPES[name]
    assert response.header("cache-control") == "public, max-age=31536000, immutable"
    assert response.header("vary") == "Accept-Encoding"
    assert response.header("content-encoding") is None
    assert response.header("x-content-type-options") == "nosniff"
    assert response.header("cross-origin-resource-policy") == "same-origin"
    # Scripts and style sheets are no documents; an image may be opened as one.
    is_document = not name.endswith((".js", ".css"))
    assert (response.header("content-security-policy") is not None) is is_document
    assert response.body == FILES[name].encode()


async def test_only_files_of_the_page_are_assets(server: ApiServer, web: Path, version: str) -> None:
    assert set(Page.load(web).assets) == set(CONTENT_TYPES)
    for name in (
        "index.html",
        "vendor/renew.py",
        "serve.sh",
        ".hidden.js",
        ".git/config.txt",
        "core",
        "",
        "no.js",
    ):
        response = await server.call("GET", f"/assets/{version}/{name}")
        assert (response.status, response.code) == (404, "not_found")
        assert response.header("cache-control") == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "../home/llb.db",
        "..%2fhome%2fllb.db",
        "%2e%2e/home/llb.db",
        "core/../main.js",
        "core%2frouter.js",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..\\home\\llb.db",
        "main.js%00",
        "main.js/",
        "./main.js",
        "MAIN.JS",
    ],
)
async def test_no_way_leads_out(server: ApiServer, version: str, path: str) -> None:
    response = await server.call("GET", f"/assets/{version}/{path}")
    assert response.status in (400, 404)
    assert response.json["error"]["type"] == "invalid_request_error"


async def test_another_version_is_gone(server: ApiServer, tmp_path: Path, version: str) -> None:
    for other in ("0" * 12, version.upper(), "latest", version[:-1]):
        response = await server.call("GET", f"/assets/{other}/main.js")
        assert (response.status, response.code) == (404, "not_found")
    seen = {version}
    for number, change in enumerate(({"main.js": ""}, {"index.html": ""}, {"new.css": ""})):
        seen.add(Page.load(write_web(tmp_path / f"web{number}", **change)).version)
    assert len(seen) == 4
    assert Page.load(write_web(tmp_path / "web-same", **{"serve.sh": "not served"})).version == version
    assert all(re.fullmatch(r"[0-9a-f]{12}", each) for each in seen)


# --- how it travels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "main.js", "styles/page.css"])
async def test_text_is_compressed_for_clients_that_accept_it(
    tmp_path: Path, web: Path, version: str, path: str
) -> None:
    (web / "index.html").write_text(FILES["main.js"])
    async with run_api_server(tmp_path / "home", page_blueprint(web), admin_password=PASSWORD) as server:
        version = Page.load(web).version
        address = path if path == "/" else f"/assets/{version}/{path}"
        plain = await server.call("GET", address)
        for _ in range(2):
            packed = await server.call("GET", address, GZIP)
            assert packed.header("content-encoding") == "gzip"
            assert packed.header("vary") == "Accept-Encoding"
            assert packed.header("content-length") == str(len(packed.body))
            assert packed.header("content-type") == plain.header("content-type")
            assert len(packed.body) < len(plain.body)
            assert gzip.decompress(packed.body) == plain.body
        for refused in ("", "br", "gzip;q=0", "gzip; q=0.00", "deflate, xgzip"):
            assert (await server.call("GET", address, ("Accept-Encoding", refused))).body == plain.body


async def test_what_gzip_does_not_make_smaller_travels_as_it_is(server: ApiServer, version: str) -> None:
    for name in ("core/router.js", "icon.png", "font.woff2"):
        response = await server.call("GET", f"/assets/{version}/{name}", GZIP)
        assert response.header("content-encoding") is None
        assert response.body == FILES[name].encode()


async def test_head_says_the_same_without_the_content(server: ApiServer, version: str) -> None:
    varying = {"x-request-id", "date"}
    for address in ("/", "/nodes", f"/assets/{version}/main.js"):
        for also in ((), (GZIP,)):
            got, head = await server.call("GET", address, *also), await server.call("HEAD", address, *also)
            assert (head.status, head.body) == (200, b"")
            assert [pair for pair in head.headers if pair[0] not in varying] == [
                pair for pair in got.headers if pair[0] not in varying
            ]


# --- what there is to serve --------------------------------------------------------------------------


def test_without_its_files_the_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Cannot read the files of the page in .*: No such file"):
        page_blueprint(tmp_path / "nowhere")
    (tmp_path / "main.js").write_text("")
    with pytest.raises(SetupError, match="install llb again"):
        page_blueprint(tmp_path)


def test_the_shipped_page_can_be_served() -> None:
    page = Page.load(resource_path("web"))
    index = page.index_below("/llb").content
    assert index.startswith(b"<!doctype html>")
    assert b"{{" not in index


async def test_long_lists_are_compressed_for_whom_it_suits(make_llb: BalancerFactory, tmp_path: Path) -> None:
    entries = [{"id": f"model-{number}", "size_bytes": 1000} for number in range(200)]
    llb = await make_llb(catalog=write_catalog(tmp_path / "long.json", *entries)).start()
    packed = await llb.http.get("/api/models", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert int(packed.headers["content-length"]) < len(packed.content) / 10
    plain = await llb.http.get("/api/models", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == packed.json()
