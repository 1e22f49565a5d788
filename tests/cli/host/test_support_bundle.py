"""`llb support-bundle`: shown first, written after a yes, without secrets and addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.cli.host import support_bundle
from tests.cli.conftest import CommandHost
from tests.harness import PASSWORD


def test_a_bundle_of_a_running_server(with_models: CommandHost, tmp_path: Path) -> None:
    token = "hf_abcdefghijklmnopqrstuvwxyz"
    with_models.start_server("--allowed-host", "llm.corp.example")
    key = with_models.run_command("keys", "create", "kitchen-radio").stdout.strip()
    with_models.run_command("pull", "tiny")
    bundle = tmp_path / "bundle.txt"
    with_models.run_command("support-bundle", "--yes", str(bundle), env={"HF_TOKEN": token})
    assert bundle.stat().st_mode & 0o777 == 0o600
    text = bundle.read_text()
    for secret in (PASSWORD, key, token, "kitchen-radio", "corp.example", "attic"):
        assert secret not in text, secret
    for part in (
        "== Checks (llb doctor) ==",
        '"name": "parallel"',
        "schema ",
        "api_keys: 1 rows",
        '"id": "tiny"',
        "== Log ==",
        "llb.",
        "http://127.0.0.1:",
        "<node-1>",
    ):
        assert part in text, part
    assert "cannot be read" not in text.partition("== Settings ==")[2]


def test_it_is_shown_before_it_is_written(host: CommandHost, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.txt"
    with host.open_terminal("support-bundle", str(bundle)) as terminal:
        terminal.expect("No server runs on this data directory.")
        terminal.expect("Write this text to")
        assert not bundle.exists()
        terminal.write("n\n")
        assert terminal.wait() == 1
    assert not bundle.exists()
    # Without a terminal, no one could read it first.
    done = host.run_command("support-bundle", str(bundle), expected_status=2)
    assert "--yes" in done.stderr
    assert not bundle.exists()


def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a name or a credential would not be recognized."""
    monkeypatch.setattr(support_bundle, "MAX_LOG_FILE_BYTES", 30)
    log = tmp_path / "llb.log"
    log.write_text("Bearer sk-0123456789abcdef0123456789\nthe last line\n")
    assert support_bundle._read_end(log) == "the last line\n"
    monkeypatch.setattr(support_bundle, "MAX_LOG_FILE_BYTES", 1000)
    assert support_bundle._read_end(log).startswith("Bearer ")
