"""Unit of systemd: what systemd says of it, its hardening, words that it takes literally."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llb.cli.errors import CommandError
from llb.cli.host.systemd_unit import ServiceUnit, join_words, render_unit

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")

systemd_analyze = pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd-analyze is not installed")

# Of `systemd-analyze security`, times ten; the worst is 100.
MAX_EXPOSURE = 25


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SYSTEMD_ANALYZE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def unit_of(**changes: object) -> ServiceUnit:
    values: dict[str, object] = {
        "command": ["/bin/true"],
        "home": Path("/var/lib/llb"),
        "environment_file": Path("/etc/llb/llb.env"),
        "stop_timeout_s": 74.0,
        "user": "daemon",
        "groups": ["video"],
        "writable_paths": [Path("/srv/my models")],
        "nvidia_modprobe": Path("/bin/true"),
    }
    return ServiceUnit(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def write_unit(tmp_path: Path) -> Callable[[ServiceUnit], str]:
    def write(unit: ServiceUnit) -> str:
        path = tmp_path / "llb.service"
        path.write_text(render_unit(unit))
        return str(path)

    return write


@systemd_analyze
@pytest.mark.parametrize(
    "unit",
    [unit_of(), unit_of(needs_low_port=True), unit_of(user=None)],
    ids=["system", "low port", "user"],
)
def test_systemd_accepts_the_unit(unit: ServiceUnit, write_unit: Callable[[ServiceUnit], str]) -> None:
    done = analyze("verify", write_unit(unit))
    # Also a line that is only ignored is wrong.
    assert (done.returncode, done.stderr) == (0, "")


@systemd_analyze
def test_the_unit_is_hardened(write_unit: Callable[[ServiceUnit], str]) -> None:
    flags = ["--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}"]
    done = analyze("security", *flags, write_unit(unit_of()))
    assert done.returncode == 0, done.stdout


def test_an_engine_on_a_gpu_survives_the_hardening() -> None:
    names = {line.partition("=")[0] for line in render_unit(unit_of()).splitlines()}
    for name in ("PrivateDevices", "MemoryDenyWriteExecute", "ProtectClock", "DeviceAllow", "ProtectProc"):
        assert name not in names
    # Else the engines would get the stop signal, and answers would end.
    assert "KillMode=mixed" in render_unit(unit_of())


def test_words_of_a_command_line_are_taken_literally() -> None:
    words = ["/opt/my llb/python", "--name", 'a"b\\c', "100%", "$HOME", "50%$x"]
    assert join_words(words) == r'"/opt/my llb/python" --name "a\"b\\c" 100%% "$$HOME" "50%%$$x"'


@pytest.mark.parametrize("character", ["\n", "\r", "\x0b", "\x85", "\u2028"])
def test_no_word_begins_a_line_of_its_own(character: str) -> None:
    """systemd ends a line at a carriage return, too."""
    word = f"x{character}ExecStartPre=+/bin/true"
    for changes in ({"command": ["/bin/true", word]}, {"home": Path(word)}, {"environment_file": Path(word)},
                    {"writable_paths": [Path(word)]}):  # fmt: skip
        with pytest.raises(CommandError, match="control character"):
            render_unit(unit_of(**changes))


def test_a_dollar_is_one_where_no_variable_is_read() -> None:
    shown = render_unit(unit_of(home=Path("/srv/$1"), writable_paths=[Path("/srv/$1")]))
    assert 'Environment="LLB_HOME=/srv/$1"' in shown
    assert 'ReadWritePaths="/srv/$1"' in shown
