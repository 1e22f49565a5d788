"""Wheels of the locked packages: for one Python on Linux x86-64, with their hashes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What the oldest distributions with Python 3.11 have.
MAX_GLIBC = (2, 28)
_PLATFORMS = ("linux_x86_64", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64")
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_x86_64")
# Parts of a wheel's `.data` that belong into site-packages; scripts and headers have no use there.
_SITE_SCHEMES = ("purelib", "platlib")


class BuildError(Exception):
    """The file cannot be built; the text says why."""


@dataclass(frozen=True)
class LockedPackage:
    """Line of the lock: one version of a package, and the hashes of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


def read_lock(path: Path) -> list[LockedPackage]:
    """Return the packages of a lock that `pip compile` has written."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    packages = []
    for line in lines:
        specification, *hashes = re.split(r"\s--hash=", line.strip())
        if specification and not specification.startswith("#"):
            packages.append(LockedPackage(Requirement(specification), tuple(each.strip() for each in hashes)))
    return packages


def target_environment(minor: int) -> dict[str, str]:
    """Return the values of environment markers for Python 3.`minor` on Linux x86-64."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"3.{minor}.0",
        "python_version": f"3.{minor}",
        "sys_platform": "linux",
        "extra": "",
    }


def is_wanted(requirement: Requirement, minor: int) -> bool:
    """Whether a requirement applies to that target, without extras."""
    return requirement.marker is None or requirement.marker.evaluate(target_environment(minor))


@dataclass(frozen=True)
class Wheel:
    """Wheel on the disk."""

    path: Path

    @property
    def name(self) -> str:
        return canonicalize_name(self.path.name.split("-")[0])

    @cached_property
    def requirements(self) -> list[Requirement]:
        with zipfile.ZipFile(self.path) as archive:
            [name] = [each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each)]
            metadata = HeaderParser().parsestr(archive.read(name).decode())
        return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that one of its tags promises to work with, (0, 0) for pure Python."""
        found = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(self.path.name)]
        return min(found, default=(0, 0))

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield path below site-packages, and contents."""
        with zipfile.ZipFile(self.path) as archive:
            for entry in archive.infolist():
                if entry.is_dir():
                    continue
                path = _site_path(entry.filename)
                if path is not None:
                    yield path, archive.read(entry)


def _site_path(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BuildError(f"a wheel has the path {name}")
    if not path.parts[0].endswith(".data"):
        return name
    return "/".join(path.parts[2:]) if path.parts[1] in _SITE_SCHEMES else None


def download(packages: Iterable[LockedPackage], minor: int, directory: Path) -> list[Wheel]:
    """Return the wheels of the packages for Python 3.`minor`; those that are not there yet are downloaded.

    pip compares all of them with the hashes. Raises `BuildError`.
    """
    wanted = [package for package in packages if is_wanted(package.requirement, minor)]
    text = "".join(
        f"{package.requirement.name}{package.requirement.specifier} "
        + " ".join(f"--hash={each}" for each in package.hashes)
        + "\n"
        for package in wanted
    )
    stamp = directory / ".complete"
    digest = hashlib.sha256(text.encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.iterdir():
            old.unlink()
        requirements = directory / "requirements.txt"
        requirements.write_text(text)
        _run_pip_download(requirements, minor, directory)
        stamp.write_text(digest)
    wheels = [Wheel(path) for path in sorted(directory.glob("*.whl"))]
    if missing := {package.name for package in wanted} - {wheel.name for wheel in wheels}:
        raise BuildError(f"{directory} lacks {', '.join(sorted(missing))}")
    return wheels


def _run_pip_download(requirements: Path, minor: int, directory: Path) -> None:
    platforms = [*_PLATFORMS, *(f"manylinux_2_{number}_x86_64" for number in range(5, MAX_GLIBC[1] + 1))]
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary", ":all:", "--python-version", f"3.{minor}", "--implementation", "cp",
        "--abi", f"cp3{minor}", "--abi", "abi3", "--abi", "none",
        *(word for platform in platforms for word in ("--platform", platform)),
        "--require-hashes", "--requirement", str(requirements), "--dest", str(directory),
    ]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise BuildError(f"the packages for Python 3.{minor} could not be downloaded: {done.stderr.decode()}")


def select_runtime(roots: Iterable[Requirement], wheels: Iterable[Wheel], minor: int) -> Iterator[Wheel]:
    """Yield the wheels that `roots` need, directly or not, by name. Raises `BuildError` if one is missing."""
    by_name: Mapping[str, Wheel] = {wheel.name: wheel for wheel in wheels}
    needed: dict[str, Wheel] = {}
    waiting = [requirement for requirement in roots if is_wanted(requirement, minor)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in needed:
            continue
        if name not in by_name:
            raise BuildError(f"the lock lacks {name}, which {requirement} asks for")
        needed[name] = by_name[name]
        waiting += [each for each in by_name[name].requirements if is_wanted(each, minor)]
    for _, wheel in sorted(needed.items()):
        yield wheel
