"""Workflows of the public forge: pinned actions, few permissions, scripts that parse and paths that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED_ACTION = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
OWN_COMMAND = re.compile(r"(?<![\w/])\.?/?((?:\.ci/|install\.sh)[\w]*)")
OWN_MODULE = re.compile(r"-m ((?:bench|tools|tests)\.[\w.]+)")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def scripts(path: Path) -> Iterator[str]:
    for job in load(path)["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)


def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    used = [line.strip().removeprefix("- ") for line in workflow.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED_ACTION.fullmatch(line)] == []


def test_jobs_read_only_and_end(workflow: Path) -> None:
    loaded = load(workflow)
    assert loaded["permissions"] == {"contents": "read"}
    jobs = loaded["jobs"]
    assert [name for name, job in jobs.items() if "timeout-minutes" not in job] == []
    writing = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert writing <= {"publish"}
    for name in writing:
        # What publishes runs nothing of the repository, only what a tested build has made.
        assert jobs[name]["needs"]
        assert not [step for step in jobs[name]["steps"] if "checkout" in step.get("uses", "")]
    assert all(needed in jobs for job in jobs.values() for needed in [job.get("needs")] if needed)


def test_scripts_parse_and_take_no_expression(workflow: Path) -> None:
    for script in scripts(workflow):
        subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True, capture_output=True)
        assert "${{" not in script


def test_what_scripts_call_exists(workflow: Path) -> None:
    text = "\n".join(scripts(workflow))
    commands = set(OWN_COMMAND.findall(text))
    modules = {name.replace(".", "/") for name in OWN_MODULE.findall(text)}
    assert commands | modules or workflow.name != "release.yml"
    assert [name for name in commands if not (ROOT / name).is_file()] == []
    assert [
        name
        for name in modules
        if not (ROOT / f"{name}.py").is_file() and not (ROOT / name / "__main__.py").is_file()
    ] == []


def test_a_release_has_the_files_that_the_document_lists() -> None:
    listed = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/packaging.md").read_text(), flags=re.MULTILINE)
    assert {"llb.pyz", "llb-VERSION-py3-none-any.whl", "llb-VERSION.tar.gz", "llb.cdx.json"} <= set(listed)
    release = (ROOT / ".github/workflows/release.yml").read_text()
    assert "subject-path: dist/llb*" in release
