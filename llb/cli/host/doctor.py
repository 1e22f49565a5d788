"""`llb doctor`: checks this host without changing anything, and reports problems with remedies."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress

from llb.base import runfile
from llb.cli import output
from llb.cli.checks import Finding, Level, bad, ok
from llb.cli.checks import cluster as cluster_checks
from llb.cli.checks import disk as disk_checks
from llb.cli.checks import engine as engine_checks
from llb.cli.checks import network as network_checks
from llb.cli.checks import program as program_checks
from llb.cli.checks import settings as settings_checks
from llb.cli.checks import tls as tls_checks
from llb.cli.errors import CommandError
from llb.cli.grammar.flags import flags_of
from llb.cli.options import home_of
from llb.config import Config, load_config, make_config
from llb.errors import SetupError

_LEVEL_LABELS = {Level.OK: "ok", Level.WARN: "warn", Level.BAD: "bad"}


def run_doctor(options: argparse.Namespace) -> int:
    """`llb doctor`: exit status 1 if a finding is bad."""
    if options.health:
        return _check_health(options)
    found: list[Finding] = []
    for finding in run_checks(options):
        found.append(finding)
        if not options.json:
            _print_finding(finding)
    is_bad = any(finding.level is Level.BAD for finding in found)
    if options.json:
        output.print_json({"ok": not is_bad, "findings": found})
        return int(is_bad)
    counts = {level: sum(finding.level is level for finding in found) for level in Level}
    output.print_line()
    if not counts[Level.BAD] and not counts[Level.WARN]:
        output.print_line("No problems found.")
    else:
        warnings = "1 warning" if counts[Level.WARN] == 1 else f"{counts[Level.WARN]} warnings"
        output.print_line(f"{counts[Level.BAD]} bad, {warnings}, {counts[Level.OK]} ok.")
    return int(is_bad)


def _check_health(options: argparse.Namespace) -> int:
    """`llb doctor --health`: exit status 1 unless the server of this data directory can serve requests."""
    info = runfile.find_running_server(home_of(options))
    if info is None:
        raise CommandError(f"llb is not running on {home_of(options)}.")
    readiness = program_checks.request_readiness(info)
    if options.json:
        output.print_json(readiness)
    else:
        reason = f": {readiness.reason}" if isinstance(readiness.reason, str) else ""
        output.print_line(f"llb at {info.url} is {readiness.status}{reason}")
    return int(readiness.status != "ready")


def run_checks(options: argparse.Namespace) -> Iterator[Finding]:
    """Run all checks; yields each finding as soon as it is known."""
    yield from program_checks.check_versions()
    config, finding = load_config_or_default(options)
    info = None
    # `check_home` reports a directory that cannot be read.
    with suppress(OSError):
        info = runfile.find_running_server(config.home)
    if info is not None and finding.level is Level.OK and flags_of(options).keys() <= {"home"}:
        # Another shell may have another environment than the server.
        config, finding = settings_checks.with_settings_of_server(config, info, finding)
    yield finding
    yield from disk_checks.check_home(config)
    yield from disk_checks.check_models_dir(config)
    yield from program_checks.check_server(config, info)
    yield from cluster_checks.check_link(config, info)
    yield from tls_checks.check_certificate(config, time.time())
    yield from disk_checks.check_database(config)
    catalog = program_checks.check_catalog(config)
    yield catalog.finding
    yield from engine_checks.check_engine(config, catalog.models)
    yield from program_checks.check_sandbox()
    yield from disk_checks.check_model_files(config)
    yield from network_checks.check_clock(time.time())
    yield from network_checks.check_hub(config, catalog.models)


def load_config_or_default(options: argparse.Namespace) -> tuple[Config, Finding]:
    """Load the settings; use the defaults if they are invalid, so that the other checks can run."""
    try:
        config = load_config(flags_of(options))
    except SetupError as error:
        fallback = make_config(home=home_of(options))
        return fallback, bad(
            "settings", str(error), "correct that flag, environment variable or line of llb.toml"
        )
    file = config.home / "llb.toml"
    return config, ok(
        "settings", f"{file} is read" if file.exists() else "from flags and environment; there is no llb.toml"
    )


def _print_finding(finding: Finding) -> None:
    """Print a finding on one line, with its remedy below."""
    from rich.text import Text

    out = output.create_console()
    line = Text.assemble(
        (f"{_LEVEL_LABELS[finding.level]:<5}", output.style_of(_LEVEL_LABELS[finding.level])),
        (f"{finding.check:<12}", "bold"),
        output.strip_control_chars(finding.detail),
    )
    out.print(line, soft_wrap=True)
    if finding.remedy is not None:
        out.print(
            Text(f"{'':<17}→ {output.strip_control_chars(finding.remedy)}", style="italic"), soft_wrap=True
        )
