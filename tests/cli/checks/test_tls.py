"""Commands with a TLS server, locally and from another host; the doctor's check of certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from llb.cli.checks import tls as tls_checks
from llb.config import make_config
from llb.security.certificates import create_authority, issue_certificate
from tests.cli.conftest import CommandHost
from tests.cli.host.test_doctor import findings, only

DAY_S = 86_400.0


def test_commands_trust_the_certificate_of_their_own_host(with_models: CommandHost, tmp_path: Path) -> None:
    with_models.env["LLB_TLS"] = "auto"
    with_models.start_server()
    assert with_models.url.startswith("https://127.0.0.1:")
    assert len(with_models.run_json_command("models")["models"]) == 5
    # Over HTTPS and the WebSocket.
    assert "tiny is ready" in with_models.run_command("pull", "tiny").stdout
    found = findings(with_models)
    assert with_models.url in only(found, "server", "ok")["detail"]
    assert "host's CA" in only(found, "certificate", "ok")["detail"]
    assert with_models.url in with_models.run_command("join-token").stdout


def test_from_another_host_the_certificate_has_to_be_trusted(
    with_models: CommandHost, tmp_path: Path
) -> None:
    with_models.start_server("--tls", "auto")
    key = with_models.run_command("keys", "create", "there", "--scope", "admin").stdout.split()[-1]
    assert key.startswith("sk-")
    elsewhere = CommandHost(tmp_path / "elsewhere")
    message = elsewhere.run_failing_command("--url", with_models.url, "--key", key, "models")
    assert "certificate" in message
    assert "is not valid" in message
    known = tmp_path / "llb.pem"
    known.write_text(
        httpx.get(f"{with_models.url}/api/tls/certificate", trust_env=False, timeout=60, verify=False).text  # noqa: S501
    )
    elsewhere.env["SSL_CERT_FILE"] = str(known)
    assert elsewhere.run_command("--url", with_models.url, "--key", key, "models").stdout


def test_the_doctor_checks_the_certificate(tmp_path: Path) -> None:
    pem = issue_certificate(create_authority(), ("localhost",))[0].decode()
    key, _, certificate = pem.partition("-----BEGIN CERTIFICATE-----")
    (tmp_path / "key.pem").write_text(key)
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----" + certificate)
    own = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    now = (tmp_path / "key.pem").stat().st_mtime

    def level(at: float = now, /, **settings: Any) -> str | None:
        found = [*tls_checks.check_certificate(make_config(home=tmp_path, **settings), at)]
        return found[0].level.value if found else None

    assert level() is None
    # Created at the start.
    assert level(tls="auto") == "ok"
    assert level(**own) == "ok"
    assert level(now + 390 * DAY_S, **own) == "warn"
    assert level(now + 400 * DAY_S, **own) == "bad"
    assert level(tls_cert=tmp_path / "cert.pem") == "bad"
    assert level(tls_cert=tmp_path / "key.pem", tls_key=tmp_path / "key.pem") == "bad"
    (tmp_path / "tls.pem").write_text("nonsense")
    assert level(tls="auto") == "bad"


def test_one_file_without_the_other(tmp_path: Path, host: CommandHost) -> None:
    assert "must be given together" in host.run_failing_command(
        "serve", "--tls-cert", str(tmp_path / "cert.pem")
    )
