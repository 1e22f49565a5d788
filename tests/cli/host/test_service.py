"""`llb service`: its requirements, its secrets, and hosts on which it is refused."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.base import installation
from llb.cli.errors import CommandError
from llb.cli.host import service
from llb.config import DEFAULT_HOST, make_config
from tests.cli.conftest import CommandHost


def test_flags_become_those_of_the_service(host: CommandHost, tmp_path: Path) -> None:
    flags = ("--port", "443", "--drain-timeout", "5m", "--catalog", "c.json", "--history-text")
    secrets = {"LLB_ADMIN_PASSWORD": "secret words", "LLB_PORT": "1234"}
    shown = host.run_command("service", "install", "--print", "--token", "llbj-x", *flags, env=secrets).stdout
    [command] = [line for line in shown.splitlines() if line.startswith("ExecStart=")]
    assert command.endswith(
        f" -m llb --port 443 --catalog {Path.cwd() / 'c.json'} --drain-timeout 5m --history-text"
    )
    assert "secret words" not in shown
    assert "llbj-x" not in shown
    # The server ends its process 14 s after the drain.
    assert "TimeoutStopSec=329" in shown
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in shown
    assert "User=llb" in shown
    own = host.run_command("service", "install", "--print", "--user").stdout
    assert "User=" not in own
    assert f"LLB_HOME={host.home}" in own
    assert "ProtectHome" not in own


def test_secrets_are_stored_apart_and_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "llb.env"
    service.write_environment_file(path, {"LLB_ADMIN_PASSWORD": "first", "PATH": "/bin"}, {})
    path.write_text(path.read_text() + "HTTPS_PROXY=http://proxy:3128\n")
    service.write_environment_file(path, {"LLB_ADMIN_PASSWORD": 'se"cond'}, {"join_token": "llbj-x"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().splitlines()[1:] == [
        "HTTPS_PROXY=http://proxy:3128",
        'LLB_ADMIN_PASSWORD="se\\"cond"',
        'LLB_JOIN_TOKEN="llbj-x"',
    ]


NOBODY = 65_534


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that everybody can read, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_place_that_the_service_cannot_use_is_refused(
    public_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = public_path / "opt" / "llb"
    program.mkdir(parents=True)
    for directory in (program, program.parent):
        directory.chmod(0o755)
    service.require_access(program, NOBODY, [NOBODY])
    with pytest.raises(CommandError, match="cannot write"):
        service.require_access(program, NOBODY, [NOBODY], is_written=True)
    service.require_access(program, os.geteuid(), [], is_written=True)
    program.parent.chmod(0o700)
    with pytest.raises(CommandError, match=f"cannot read {program.parent}"):
        service.require_access(program, NOBODY, [NOBODY])
    with pytest.raises(CommandError, match="does not exist"):
        service.require_access(public_path / "missing", NOBODY, [NOBODY])
    monkeypatch.setattr(service, "HIDDEN_DIRECTORIES", (public_path,))
    with pytest.raises(CommandError, match="into /opt/llb"):
        service.require_access(program, os.geteuid(), [])


def test_of_a_single_file_only_python_and_the_file_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(home=service.SYSTEM_HOME)
    package = Path(service.__file__).resolve().parents[2]
    command = installation.program_command()
    assert service._needed_paths(command, config) == [(Path(sys.executable), False), (package, False)]
    # It was unpacked into the cache of the user who installs the service.
    monkeypatch.setattr(installation, "_program_file", tmp_path / "llb.pyz")
    command = installation.program_command()
    assert service._needed_paths(command, config) == [
        (Path(sys.executable), False),
        (tmp_path / "llb.pyz", False),
    ]


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="this host runs systemd")
def test_without_systemd_it_is_refused_with_a_sentence(host: CommandHost) -> None:
    for action in ("install", "status", "uninstall"):
        assert "does not run systemd" in host.run_failing_command("service", action)
    assert "ACTION" in host.run_command("service", expected_status=2).stderr


def test_root_is_needed_for_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CommandError, match="sudo llb service install"):
        service.require_root("llb service install")


def test_the_network_needs_a_password(tmp_path: Path) -> None:
    scope = service.scope_of(is_user=False)
    options = {"home": str(tmp_path / "home")}
    assert service._config_of(options, scope).listen_host == DEFAULT_HOST
    service._require_password(service._config_of(options, scope))
    with pytest.raises(CommandError, match="LLB_ADMIN_PASSWORD"):
        service._require_password(service._config_of({**options, "host": "0.0.0.0"}, scope))


def test_root_runs_no_program_that_others_can_change(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-modprobe"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    if os.geteuid() != 0:
        assert service.find_root_program(program.name, str(tmp_path)) is None
    assert service.find_root_program("sh", "/usr/bin:/bin") == Path(shutil.which("sh") or "").resolve()
    tmp_path.chmod(0o777)
    assert service.find_root_program(program.name, str(tmp_path)) is None
