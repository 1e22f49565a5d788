"""Selection of the server, credentials that are sent, and errors for invalid responses."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from llb.base import platform_compat, runfile
from llb.base.runfile import RunInfo
from tests.cli.conftest import CommandHost


class Squatter:
    """Program that responds on a port and records the requests."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"models": []}'
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "http://example.invalid/")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def squatter() -> Iterator[Squatter]:
    made = Squatter()
    yield made
    made.close()


def leave_behind(host: CommandHost, squatter: Squatter, pid: int) -> None:
    """Leave the files of a killed server, whose port another program uses now."""
    platform_compat.make_private_dir(host.home)
    runfile.write_run_info(
        host.home, RunInfo(pid=pid, host="127.0.0.1", port=squatter.port, token="llb-local-secret")
    )


def test_another_program_on_the_port_gets_no_request(host: CommandHost, squatter: Squatter) -> None:
    leave_behind(host, squatter, pid=4_000_000)
    (host.home / runfile.LOCK_NAME).write_text("4000000")
    assert host.run_failing_command("models").startswith("llb is not running on ")
    assert host.run_failing_command("pull", "x").startswith("llb is not running on ")
    assert squatter.headers == []


def test_another_program_gets_no_request_while_a_server_starts(host: CommandHost, squatter: Squatter) -> None:
    leave_behind(host, squatter, pid=os.getpid() + 1)
    lock = platform_compat.try_lock_file(host.home / runfile.LOCK_NAME)
    assert lock is not None
    try:
        assert host.run_failing_command("models").startswith("llb is not running on ")
    finally:
        lock.close()
    assert squatter.headers == []


def test_another_host_gets_the_key_it_is_given_and_never_the_local_token(
    host: CommandHost, squatter: Squatter
) -> None:
    host.start_server()
    host.run_command("--url", squatter.url, "models")
    host.run_command("models", "--url", squatter.url, "--key", "sk-theirs")
    host.run_command("models", env={"LLB_URL": squatter.url, "LLB_API_KEY": "sk-environment"})
    given = [headers.get("authorization") for headers in squatter.headers]
    assert given == [None, "Bearer sk-theirs", "Bearer sk-environment"]


def test_the_key_of_the_environment_is_not_for_this_host(host: CommandHost) -> None:
    host.start_server()
    assert host.run_command("models", env={"LLB_API_KEY": "sk-for-another-host"}).stdout.startswith("ID")


def test_a_home_flag_takes_precedence_over_the_environment(host: CommandHost, squatter: Squatter) -> None:
    host.start_server()
    assert host.run_command(
        "models", "--home", str(host.home), env={"LLB_URL": squatter.url}
    ).stdout.startswith("ID")
    assert squatter.headers == []


def test_import_uses_this_host_whatever_the_environment_says(host: CommandHost, squatter: Squatter) -> None:
    assert host.run_failing_command("import", __file__, env={"LLB_URL": squatter.url}).startswith(
        "llb is not running on "
    )
    assert squatter.headers == []


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999999", "http://user@x", "http://x?y"])
def test_invalid_addresses(host: CommandHost, url: str) -> None:
    assert "is not a URL" in host.run_failing_command("models", "--url", url)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"<html>welcome</html>", "does not understand"),
        (200, b'{"models": 7}', "does not understand"),
        (404, b"<html>no</html>", "responded with 404, and not like llb"),
        (302, b"", "redirects to http://example.invalid"),
        (500, b'{"error": {"message": "An internal error occurred"}}', "An internal error occurred."),
        (401, b"{}", "A key is required at "),
        (403, b'{"error": {"message": "a\\n\\u001b[2Jb", "code": "x"}}', "a "),
    ],
)
def test_invalid_responses(
    host: CommandHost, squatter: Squatter, status: int, body: bytes, expected: str
) -> None:
    squatter.status, squatter.body = status, body
    message = host.run_failing_command("models", "--url", squatter.url)
    assert expected in message
    assert "\x1b" not in message


def test_addresses_without_a_server(host: CommandHost) -> None:
    assert "Nothing answers at http://127.0.0.1:9" in host.run_failing_command(
        "models", "--url", "127.0.0.1:9"
    )
    assert "no host with that name" in host.run_failing_command("models", "--url", "http://nowhere.invalid")


def test_https_to_an_http_server(host: CommandHost, squatter: Squatter) -> None:
    message = host.run_failing_command("models", "--url", squatter.url.replace("http", "https"))
    assert "is it http?" in message


def test_an_invalid_key(host: CommandHost, squatter: Squatter) -> None:
    assert "not an API key" in host.run_failing_command("models", "--url", squatter.url, "--key", "a\nb")
    assert squatter.headers == []
