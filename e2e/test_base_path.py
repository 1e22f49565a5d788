"""The page below a path of a real nginx: files, links, cookies, requests, the WebSocket and examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.conftest import VisitorFactory, go_to
from e2e.javascript import WEB
from tests.conftest import BalancerFactory, start_balancer
from tests.documented_proxies import nginx_command, read_config
from tests.harness import PASSWORD, RunningBalancer
from tests.ports import free_port
from tests.reverse_proxies import run_proxy

# The last one shows what the WebSocket brings.
PAGES = (
    "models/local",
    "models/tiny",
    "playground",
    "nodes",
    "requests",
    "access",
    "settings",
    "docs",
    "models",
)
# Where only the way in which the page is told its path differs.
SOME_PAGES = ("models/tiny", "models")


@contextmanager
def nginx_below(folder: Path, llb: RunningBalancer, location: str) -> Iterator[str]:
    """An nginx in front of `llb`; yields its origin."""
    port = free_port()
    folder.mkdir()
    folder.chmod(0o755)
    location = location.replace("127.0.0.1:8080", f"127.0.0.1:{llb.port}")
    user = "root" if os.geteuid() == 0 else ""
    elsewhere = 'location / { default_type text/html; return 404 "outside"; }'
    servers = f"server {{ listen 127.0.0.1:{port}; {location} {elsewhere} }}"
    with run_proxy(nginx_command(folder, user, servers), port):
        yield f"http://127.0.0.1:{port}"


def documented() -> str:
    return read_config("Below a path", "location = /llb")


# As many write it: without the header, and with $host, which lacks the port.
USUAL = """
    location /llb/ {
        proxy_pass http://127.0.0.1:8080/;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
    }
"""
# The path is passed on, to an llb with --base-path.
WHOLE = documented().replace(":8080/;", ":8080;").replace("proxy_set_header X-Forwarded-Prefix /llb;", "")


@pytest.mark.parametrize(
    ("location", "settings", "names"),
    [
        (documented(), {}, PAGES),
        (USUAL, {}, SOME_PAGES),
        (WHOLE, {"base_path": "/llb"}, SOME_PAGES),
    ],
    ids=["documented", "without the header and the port", "with --base-path"],
)
async def test_the_page_below_a_path(
    make_llb: BalancerFactory,
    visitors: VisitorFactory,
    tmp_path: Path,
    location: str,
    settings: dict[str, str],
    names: tuple[str, ...],
) -> None:
    llb = await start_balancer(make_llb(trusted_proxies=("127.0.0.1",), **settings))
    with nginx_below(tmp_path / "nginx", llb, location) as origin:
        visitor = await visitors(llb, signed_in=False, of_their_own=True)
        page = await visitor.context.new_page()
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url) if "/llb" not in request.url else None)
        await page.goto(f"{origin}/llb/requests?status=error")
        await page.wait_for_url(f"{origin}/llb/login?next=*")
        await page.get_by_label("Username").fill("admin")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in").click()
        # Back to where the visitor wanted to go.
        await page.wait_for_url(f"{origin}/llb/requests?status=error")
        for name in names:
            await page.goto(f"{origin}/llb/{name}")
            await page.locator("h1").wait_for()
            links = await page.eval_on_selector_all("a[href]", "links => links.map((a) => a.href)")
            here = [link for link in links if link.startswith(origin)]
            assert here
            assert [link for link in here if not link.startswith(f"{origin}/llb/")] == [], name
        # The WebSocket brings what happens, to the last of them.
        await page.get_by_text("Connected", exact=False).first.wait_for(state="attached")
        await llb.register_model("tiny")
        await page.get_by_text("Ready").first.wait_for()
        # Links within the page and the Back button.
        await page.get_by_role("link", name="Nodes").first.click()
        await page.wait_for_url(f"{origin}/llb/nodes")
        await page.go_back()
        await page.wait_for_url(f"{origin}/llb/models")
        # Addresses shown for other programs.
        await go_to(page, f"{origin}/llb/models/tiny")
        await page.get_by_text(f"{origin}/llb/v1").first.wait_for(state="attached")
        assert outside == []


def test_no_other_module_builds_an_address_of_the_server() -> None:
    """`serverUrl` has the path; the origin alone would not."""
    modules = (path for path in WEB.rglob("*.js") if "vendor" not in path.parts)
    found = {path.relative_to(WEB).as_posix() for path in modules if "location.origin" in path.read_text()}
    assert found == {"lib/base-path.js", "core/api.js", "core/router.js"}
