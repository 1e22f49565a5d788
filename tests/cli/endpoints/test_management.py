"""`llb endpoints` and `llb routes` with a real server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandHost

MODELS = {
    "object": "list",
    "data": [{"id": "Test/Tiny", "object": "model", "owned_by": "vllm", "max_model_len": 4096}],
}


class _Program(http.server.BaseHTTPRequestHandler):
    """A program with a list of models, and a key."""

    def do_GET(self) -> None:
        is_listed = self.path == "/v1/models"
        body = json.dumps(MODELS if is_listed else {}).encode()
        allowed = self.headers.get("Authorization") in (None, "Bearer sk-provider-0123456789")
        self.send_response((200 if is_listed else 404) if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None: ...


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    """Base URL of the program."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Program) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_endpoint_from_its_addition_to_its_removal(served: CommandHost, program: str) -> None:
    added = served.run_command("endpoints", "add", program, "--name", "box", "--weight", "2")
    assert added.stdout == "box is vllm and has 1 model.\n"
    assert "box/Test/Tiny" in added.stderr
    heading, row = served.run_command("endpoints").stdout.splitlines()
    assert heading.split()[:4] == ["NAME", "KIND", "STATUS", "URL"]
    assert row.split()[:4] == ["box", "vllm", "healthy", program]
    [listed] = served.run_json_command("endpoints", "list")["endpoints"]
    assert listed["weight"] == 2
    assert served.run_command("endpoints", "check", "box").stdout.startswith("box is healthy")
    mapped = served.run_command("endpoints", "map", "box", "Test/Tiny", "tiny")
    assert mapped.stdout == "Requests for tiny may now go to box.\n"
    assert served.run_command("endpoints", "map", "box").stdout.splitlines()[1].split()[:2] == [
        "Test/Tiny",
        "tiny",
    ]
    served.run_command("endpoints", "map", "box", "Test/Tiny", "--off")
    assert "did you mean box?" in served.run_failing_command("endpoints", "check", "bix")
    assert "Nothing was removed" not in served.run_command("endpoints", "remove", "box", "--yes").stdout
    assert served.run_json_command("endpoints")["endpoints"] == []


def test_rules(served: CommandHost, program: str) -> None:
    served.run_command("endpoints", "add", program, "--name", "box")
    shown = served.run_command(
        "routes", "tiny", "--to", "box/Test/Tiny", "--when", "busy,unavailable", "--after", "5"
    )
    assert shown.stdout.splitlines()[1].split() == [
        "tiny", "box/Test/Tiny", "busy,", "unavailable", "5", "s"
    ]  # fmt: skip
    assert served.run_json_command("routes")["models"][0]["routes"] == [
        {"target": "box/Test/Tiny", "when": ["busy", "unavailable"], "after_s": 5.0}
    ]
    served.run_command("routes", "tiny", "--clear")
    assert served.run_json_command("routes") == {"models": []}
    assert "sometimes" in served.run_failing_command(
        "routes", "tiny", "--to", "box/Test/Tiny", "--when", "sometimes"
    )
    served.run_command("endpoints", "remove", "box", "--yes")


def test_a_key_comes_from_standard_input(served: CommandHost, program: str) -> None:
    key = "sk-provider-0123456789"
    added = served.run_command("endpoints", "add", program, "--name", "box", "--key-stdin", stdin=f"{key}\n")
    assert key not in added.stdout + added.stderr
    assert "…6789" in served.run_command("endpoints").stdout
    refused = served.run_failing_command("endpoints", "add", program, "--key-stdin", stdin="sk-wrong\n")
    assert "key" in refused
    served.run_command("endpoints", "remove", "box", "--yes")


def test_stored_keys_are_encrypted_anew_while_the_server_runs(
    served: CommandHost, program: str, tmp_path: Path
) -> None:
    key = "sk-provider-0123456789"
    served.run_command("endpoints", "add", program, "--name", "keyed", "--key-stdin", stdin=f"{key}\n")
    served.run_command("settings", "set", "hf_token", stdin="hf_0123456789\n")
    key_file = served.home / "secrets.key"
    before = key_file.read_bytes()
    saved = str(tmp_path / "saved.db")
    served.run_command("backup", saved)
    verified = served.run_command("backup", "verify", saved).stdout
    assert f"2 secrets are readable with {key_file}" in " ".join(verified.split())
    assert served.run_command("secrets").stdout.startswith("2 secrets stored")
    assert served.run_command("secrets", "rotate").stdout == "2 secrets are encrypted with a new key file.\n"
    after = key_file.read_bytes()
    assert before != after
    assert len(after.split()) == 1
    verified = " ".join(served.run_command("backup", "verify", saved).stdout.split())
    assert f"The key of endpoint 'keyed' is not readable with {key_file}: enter it again." in verified
    assert f"The setting hf_token is not readable with {key_file}: enter it again." in verified
    # The server still has the key, and stores it under the new one with the next change.
    assert served.run_command("endpoints", "check", "keyed").stdout.startswith("keyed is healthy")
    assert served.run_command("secrets", "rotate").returncode == 0
    served.run_command("endpoints", "remove", "keyed", "--yes")
    assert served.run_command("settings", "reset", "HF_TOKEN").stdout.startswith("hf_token is not set now")
    assert served.run_command("secrets", "rotate").stdout == "No secret is stored.\n"


def test_settings_are_shown_and_changed(served: CommandHost) -> None:
    assert (
        served.run_command("settings", "set", "queue-timeout", "90s").stdout
        == "queue_timeout is 90s now (changed here).\n"
    )
    shown = served.run_command("settings").stdout
    [row] = [line.split() for line in shown.splitlines() if line.startswith("queue_timeout")]
    assert row == ["queue_timeout", "90s", "changed", "here", "any", "time"]
    assert served.run_command("settings", "reset", "queue_timeout").stdout.startswith(
        "queue_timeout is 1m now"
    )
    for arguments, reason in (
        (("set", "port", "1"), "start llb with --port"),
        (("set", "nosuch", "1"), "'llb settings' lists them"),
        (("set", "parallel", "many"), "is not a whole number"),
    ):
        assert reason in served.run_failing_command("settings", *arguments)
    for usage in (("parallel",), ("hf_token", "hf_x")):
        served.run_command("settings", "set", *usage, expected_status=2)
