"""Completion scripts: bash runs the one for bash; the others name every command."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.cli.conftest import CommandHost


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    quoted = " ".join(f"'{word}'" for word in words)
    call = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _llb; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", f"{script}\n{call}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    return CommandHost(tmp_path_factory.mktemp("completion")).run_command("completion", "bash").stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("llb", "mo"), ["models"]),
        (("llb", "keys", "re"), ["revoke"]),
        (("llb", "serve", "--keep"), ["--keep-alive"]),
        (("llb", "keys", "create", "laptop", "--sc"), ["--scope"]),
        (("llb", "completion", "f"), ["fish"]),
        (("llb", "models", "--pul"), ["--pulled"]),
    ],
)
def test_bash_completes(script: str, words: tuple[str, ...], expected: list[str]) -> None:
    assert complete(script, *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_the_same_words(script: str, shell: str, host: CommandHost) -> None:
    shown = host.run_command("completion", shell).stdout
    for word in ("join-token", "revoke", "keep-alive"):
        assert word in shown


def test_the_script_runs_in_zsh_too(script: str) -> None:
    """There, `path` is PATH, `words` the command line, and a slice cannot begin with a name."""
    assert not re.search(r"\b(path|words|status)=|\[@\]:\w+:[A-Za-z]", script)
