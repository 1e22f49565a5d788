"""`llb doctor`: a healthy host, and each problem with its remedy."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from llb.base import platform_compat, runfile
from tests import prefork
from tests.cli.conftest import TINY_BYTES, CommandHost
from tests.harness import PASSWORD
from tests.hub import HubStandIn


def findings(
    host: CommandHost, *arguments: str, status: int = 0, env: dict[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Findings by check. The exit status must match the levels."""
    report = host.run_json_command("doctor", *arguments, expected_status=status, env=env)
    assert report["ok"] is (status == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["check"], []).append(finding)
        assert finding["level"] == "ok" or finding["remedy"] or finding["check"] == "engine"
    assert (status == 1) is any(each["level"] == "bad" for group in found.values() for each in group)
    return found


# For a check whose result is that nothing answers: its timeouts are a tenth of the shipped ones.
IMPATIENT = {prefork.TIME_SCALE_VARIABLE: "0.1"}


def only(found: dict[str, list[dict[str, Any]]], check: str, level: str) -> dict[str, Any]:
    [finding] = found[check]
    assert finding["level"] == level, finding
    return finding


def test_a_new_host(with_models: CommandHost) -> None:
    found = findings(with_models, "--port", "0")
    assert set(found) >= {
        "python",
        "packages",
        "settings",
        "home",
        "models dir",
        "server",
        "database",
        "catalogue",
    }
    assert set(found) >= {"engine", "sandbox", "gpu", "memory", "hub"}
    assert all(each["level"] == "ok" for group in found.values() for each in group), found
    assert "4 of 5 fit" in only(found, "memory", "ok")["detail"]
    # The checks created nothing.
    assert not with_models.home.exists()


def test_a_running_host(with_models: CommandHost) -> None:
    with_models.start_server()
    with_models.run_command("pull", "tiny")
    found = findings(with_models)
    assert with_models.url in only(found, "server", "ok")["detail"]
    assert "1 of 1" in only(found, "model files", "ok")["detail"]
    assert only(found, "database", "ok")["detail"].startswith("intact")
    only(found, "accounts", "ok")
    shown = with_models.run_command("doctor").stdout
    assert shown.endswith("No problems found.\n")
    assert all(line[:5].strip() in ("ok", "") for line in shown.splitlines()[:-1])


def test_the_settings_of_the_running_server_are_checked(with_models: CommandHost) -> None:
    with_models.start_server()
    # A shell without the Hub of the server, and with a port of its own.
    del with_models.env["HF_ENDPOINT"]
    with_models.env["LLB_PORT"] = "1"
    found = findings(with_models)
    assert "another LLB_PORT, HF_ENDPOINT" in only(found, "settings", "ok")["detail"]
    only(found, "hub", "ok")


def test_problems_are_shown_with_their_remedies(host: CommandHost) -> None:
    host.run_command(
        "users", "add", "x", stdin="x\n", expected_status=1
    )  # makes the first admin, with the default password
    shown = host.run_command("doctor", "--port", "0").stdout
    assert "warn accounts" in shown
    assert "→ llb password" in shown
    assert "0 bad, " in shown


def test_settings_that_cannot_be_used(host: CommandHost) -> None:
    host.env["LLB_PRT"] = "1"
    assert "LLB_PRT" in only(findings(host, status=1), "settings", "bad")["detail"]
    del host.env["LLB_PRT"]
    host.home.mkdir(mode=0o700)
    (host.home / "llb.toml").write_text("prt = 1\n")
    assert "unknown setting 'prt'" in only(findings(host, status=1), "settings", "bad")["detail"]
    (host.home / "llb.toml").write_text("port = 0\n")
    assert "llb.toml is read" in only(findings(host), "settings", "ok")["detail"]


def test_a_port_that_is_taken(host: CommandHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        finding = only(findings(host, "--port", port, status=1, env=IMPATIENT), "server", "bad")
    assert f"another program uses port {port} on 127.0.0.1" in finding["detail"]


def test_a_server_that_has_lost_its_data_directory(host: CommandHost) -> None:
    host.start_server()
    port = host.url.rpartition(":")[2]
    shutil.rmtree(host.home)
    finding = only(findings(host, "--port", port, status=1), "server", "bad")
    assert "runs without its data directory, which was deleted or moved" in finding["detail"]


def test_a_server_with_another_data_directory(host: CommandHost, tmp_path: Path) -> None:
    host.start_server()
    port = host.url.rpartition(":")[2]
    other = CommandHost(tmp_path / "other", HF_ENDPOINT="http://127.0.0.1:9")
    finding = only(findings(other, "--port", port, status=1), "server", "bad")
    assert "an llb with another one uses port" in finding["detail"]


def test_problems_of_the_server_are_shown(host: CommandHost) -> None:
    host.start_server()
    (host.home / "models").rename(host.home / "away")
    first, _ = findings(host)["server"]
    assert first["level"] == "warn"
    assert first["detail"].startswith("The models directory of this host was deleted")


def test_a_server_that_does_not_answer(host: CommandHost) -> None:
    platform_compat.make_private_dir(host.home)
    lock = platform_compat.try_lock_file(host.home / runfile.LOCK_NAME)
    assert lock is not None
    with contextlib.closing(lock), socket.create_server(("127.0.0.1", 0)) as silent:
        assert "starting or stopping" in only(findings(host), "server", "warn")["remedy"]
        info = runfile.RunInfo(pid=os.getpid(), host="127.0.0.1", port=silent.getsockname()[1], token="t")
        runfile.write_run_info(host.home, info)
        finding = only(findings(host, status=1, env=IMPATIENT), "server", "bad")
    assert f"process {os.getpid()} runs on this data directory but does not respond" in finding["detail"]


def test_unusable_homes(host: CommandHost) -> None:
    host.home.mkdir(mode=0o755)
    host.home.chmod(0o755)
    first, _ = findings(host, "--port", "0")["home"]
    assert first["remedy"] == f"chmod 700 {host.home}"
    host.home.rmdir()
    host.home.write_text("")
    assert "not a directory" in findings(host, "--port", "0", status=1)["home"][0]["detail"]


def test_a_models_directory_that_is_a_file(host: CommandHost, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    only(
        findings(host, "--port", "0", "--models-dir", str(tmp_path / "models"), status=1), "models dir", "bad"
    )


def test_a_damaged_database(host: CommandHost) -> None:
    host.run_command("keys", "create", "x")
    database = host.home / "llb.db"
    content = bytearray(database.read_bytes())
    content[8192:12_288] = b"\xff" * 4096
    database.write_bytes(content)
    assert "llb restore" in only(findings(host, "--port", "0", status=1), "database", "bad")["remedy"]
    assert database.read_bytes() == content
    database.write_text("nothing of the kind")
    only(findings(host, "--port", "0", status=1), "database", "bad")


def test_a_database_of_a_newer_version(host: CommandHost) -> None:
    host.run_command("keys", "create", "x")
    db = sqlite3.connect(host.home / "llb.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "newer llb" in only(findings(host, "--port", "0", status=1), "database", "bad")["detail"]


def test_a_catalogue_that_is_broken(host: CommandHost, tmp_path: Path) -> None:
    broken = tmp_path / "mine.json"
    broken.write_text('[{"id": "x"}]')
    finding = only(findings(host, "--port", "0", "--catalog", str(broken), status=1), "catalogue", "bad")
    assert str(broken) in finding["detail"]
    assert "entry 1" in finding["detail"]


def test_a_memory_limit_that_nothing_fits_in(host: CommandHost) -> None:
    finding = only(findings(host, "--port", "0", "--memory-limit", "1MB", status=1), "memory", "bad")
    assert "no model fits" in finding["detail"]


@pytest.mark.parametrize("what", ["missing", "cut", "changed"])
def test_model_files_that_were_changed_by_hand(with_models: CommandHost, what: str) -> None:
    with_models.start_server()
    with_models.run_command("pull", "tiny")
    with_models.stop_server()
    path = with_models.home / "models" / "tiny" / "tiny.gguf"
    if what == "missing":
        path.unlink()
    elif what == "cut":
        os.truncate(path, TINY_BYTES // 2)
    else:
        os.utime(path, (1, 1))
    first, *_ = findings(with_models, "--port", "0", status=1)["model files"]
    assert {"missing": "missing", "cut": "instead of", "changed": "was changed"}[what] in first["detail"]
    assert "llb pull tiny" in first["remedy"]


def test_a_pull_that_failed(with_models: CommandHost) -> None:
    with_models.start_server()
    with_models.run_command("pull", "gated", expected_status=1)
    finding = next(each for each in findings(with_models)["model files"] if each["level"] == "warn")
    assert finding["detail"].startswith("gated: ")
    assert "licence" in finding["detail"]
    assert finding["remedy"] == "llb pull gated tries again"


# --- the Hub -----------------------------------------------------------------------------------------


def test_an_unreachable_hub(host: CommandHost) -> None:
    finding = only(findings(host, "--port", "0"), "hub", "warn")
    assert "connection was refused" in finding["detail"]
    host.env["HF_ENDPOINT"] = "http://nowhere.invalid"
    assert "offline" in only(findings(host, "--port", "0"), "hub", "warn")["detail"]


def test_failing_hubs(with_models: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.fail(503)
    assert "responds with 503" in only(findings(with_models, "--port", "0"), "hub", "warn")["detail"]
    models_hub.faults.clear()
    models_hub.faults.html()
    assert (
        "something else responds"
        in only(findings(with_models, "--port", "0", status=1), "hub", "bad")["detail"]
    )
    models_hub.faults.clear()
    models_hub.faults.black_hole()
    found = findings(with_models, "--port", "0", env=IMPATIENT)
    assert "did not answer in time" in only(found, "hub", "warn")["detail"]


def test_the_token(with_models: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.add_token("hf_good")
    with_models.env["HF_TOKEN"] = "hf_bad"
    report = with_models.run_command("doctor", "--json", "--port", "0", expected_status=1).stdout
    assert "does not accept the token" in report
    assert "hf_bad" not in report
    with_models.env["HF_TOKEN"] = "hf_good"
    assert "valid token" in only(findings(with_models, "--port", "0"), "hub", "ok")["detail"]


def test_no_finding_for_a_good_password(host: CommandHost) -> None:
    host.run_command("password", stdin=f"{PASSWORD}\n")
    only(findings(host, "--port", "0"), "accounts", "ok")


def test_the_health_check_asks_the_running_server(host: CommandHost) -> None:
    assert "is not running" in host.run_failing_command("doctor", "--health")
    host.start_server()
    assert host.run_command("doctor", "--health").stdout == f"llb at {host.url} is ready\n"
    assert host.run_json_command("doctor", "--health")["status"] == "ready"
