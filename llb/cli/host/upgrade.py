"""`llb upgrade`: how this llb is upgraded, and which versions are newer. It downloads and changes nothing."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Sequence

import msgspec

from llb import __version__
from llb.base import installation
from llb.base.installation import InstallKind
from llb.cli import output
from llb.cli.errors import CommandError

INDEX_TIMEOUT_S = 60.0
_VERSIONS_LINE = re.compile(r"^Available versions: (.+)$", re.MULTILINE)
_RELEASE = re.compile(r"\d+(\.\d+)*")
_STEPS = {
    InstallKind.CHECKOUT: "stop llb, then: git pull && ./install.sh run",
    InstallKind.FILE: "stop llb, put the newer llb.pyz in the place of {file}, and start it again",
    InstallKind.PACKAGE: "stop llb, then: pip install --upgrade llb (pipx upgrade llb, uv tool upgrade llb)",
}
WAY_BACK = (
    "Before the database changes its format it is copied; should you go back, the older llb says how to "
    "restore that copy. Upgrade the balancer before its nodes: hosts one version apart work together."
)


class UpgradeReport(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `llb upgrade --json`. `newer`: newest first; None if the index was not asked."""

    version: str
    installation: str
    how: str
    newer: tuple[str, ...] | None = None


def describe_upgrade(options: argparse.Namespace) -> int:
    """`llb upgrade`"""
    kind = installation.kind()
    how = _STEPS[kind].format(file=installation.program_command()[-1])
    newer = newer_releases(query_releases(), __version__) if options.check else None
    if options.json:
        output.print_json(UpgradeReport(version=__version__, installation=kind, how=how, newer=newer))
        return 0
    if newer is None:
        output.print_line(f"This is llb {__version__}; 'llb upgrade --check' asks for newer versions.")
    elif not newer:
        output.print_line(f"llb {__version__} is the newest version in the package index.")
        return 0
    else:
        skipped = f" Between them: {', '.join(newer[1:])}." if len(newer) > 1 else ""
        output.print_line(f"llb {newer[0]} is available, this is {__version__}.{skipped}")
    output.print_line(f"To upgrade, {how}.")
    output.print_line(WAY_BACK)
    return 0


def query_releases() -> list[str]:
    """Versions of llb in the package index that pip is set up for. Raises `CommandError`."""
    query = ["index", "versions", "llb", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*installation.pip_command(), *query],
            env=installation.pip_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INDEX_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"The package index did not answer within {INDEX_TIMEOUT_S:.0f} s.") from None
    except OSError as error:
        raise CommandError(f"pip cannot be started: {error.strerror}.") from None
    found = _VERSIONS_LINE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise CommandError(_describe_failure(done.stderr))
    return found[1].split(", ")


def newer_releases(releases: Sequence[str], version: str) -> tuple[str, ...]:
    """The releases after `version`, newest first; previews are left out."""
    numbered = {_numbers(each): each for each in releases if _RELEASE.fullmatch(each)}
    return tuple(numbered[each] for each in sorted(numbered, reverse=True) if each > _numbers(version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _describe_failure(errors: str) -> str:
    if "No module named pip" in errors:
        return (
            "This Python has no pip to ask the package index with: pipx upgrade llb, or uv tool upgrade llb, "
            "looks for a newer version and installs it."
        )
    if "No matching distribution" in errors:
        return "The package index has no llb: check the index that pip is set up for ('pip config list')."
    lines = [line.removeprefix("ERROR: ").strip() for line in errors.splitlines() if line.startswith("ERROR")]
    return f"The package index cannot be asked: {lines[-1] if lines else 'pip does not say why'}"
