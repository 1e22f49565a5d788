"""Which server a command speaks with, what it hands over, and what it says of answers that make no sense."""

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
    """A program that answers on a port, and writes down what it was told."""

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
    """What a server that was killed leaves; somebody else has its port since."""
    platform_compat.make_private_dir(host.home)
    runfile.write_run_info(
        host.home, RunInfo(pid=pid, host="127.0.0.1", port=squatter.port, token="llb-local-secret")
    )


def test_a_program_that_merely_has_the_port_is_told_nothing(host: CommandHost, squatter: Squatter) -> None:
    leave_behind(host, squatter, pid=4_000_000)
    (host.home / runfile.LOCK_NAME).write_text("4000000")
    assert host.run_failing_command("models").startswith("llb is not running on ")
    assert host.run_failing_command("pull", "x").startswith("llb is not running on ")
    assert squatter.headers == []


def test_nor_while_another_server_of_the_home_is_starting(host: CommandHost, squatter: Squatter) -> None:
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


def test_a_home_that_is_named_wins_over_the_environment(host: CommandHost, squatter: Squatter) -> None:
    host.start_server()
    assert host.run_command(
        "models", "--home", str(host.home), env={"LLB_URL": squatter.url}
    ).stdout.startswith("ID")
    assert squatter.headers == []


def test_import_is_about_this_host_whatever_the_environment_says(
    host: CommandHost, squatter: Squatter
) -> None:
    assert host.run_failing_command("import", __file__, env={"LLB_URL": squatter.url}).startswith(
        "llb is not running on "
    )
    assert squatter.headers == []


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:99999999", "http://user@x", "http://x?y"])
def test_what_is_no_address(host: CommandHost, url: str) -> None:
    assert "is not a URL" in host.run_failing_command("models", "--url", url)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>welcome</html>", "does not understand"),
        (200, b'{"models": 7}', "does not understand"),
        (404, b"<html>no</html>", "answers 404, not as llb does"),
        (302, b"", "leads elsewhere"),
        (500, b'{"error": {"message": "An internal error occurred"}}', "An internal error occurred."),
        (401, b"{}", "A key is needed at "),
        (403, b'{"error": {"message": "a\\n\\u001b[2Jb", "code": "x"}}', "a "),
    ],
)
def test_answers_that_are_no_answers(
    host: CommandHost, squatter: Squatter, status: int, body: bytes, said: str
) -> None:
    squatter.status, squatter.body = status, body
    told = host.run_failing_command("models", "--url", squatter.url)
    assert said in told
    assert "\x1b" not in told


def test_addresses_where_nobody_is(host: CommandHost) -> None:
    assert "Nothing answers at http://127.0.0.1:9" in host.run_failing_command(
        "models", "--url", "127.0.0.1:9"
    )
    assert "no host of that name" in host.run_failing_command("models", "--url", "http://nowhere.invalid")


def test_tls_where_there_is_none(host: CommandHost, squatter: Squatter) -> None:
    said = host.run_failing_command("models", "--url", squatter.url.replace("http", "https"))
    assert "is it http?" in said


def test_a_key_that_cannot_be_one(host: CommandHost, squatter: Squatter) -> None:
    assert "not an API key" in host.run_failing_command("models", "--url", squatter.url, "--key", "a\nb")
    assert squatter.headers == []
