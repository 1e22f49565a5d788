"""Renews other people's modules that the page uses; `manifest.json` says which, what of them, and with what
sums.

    renew.py                     fetch the versions that the manifest names once more
    renew.py NAME@VERSION …      move to another version
    renew.py --latest NAME       move to the newest version
    renew.py --check             whether all lies here as the manifest says; needs no network

It needs npm, and asks whatever registry npm is set up for. Files are taken as they were published, under
names that browsers can import; a licence that changes, or a version that is no longer what it was, is
refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"
OUR_OWN = frozenset({"manifest.json", "renew.py"})
TIMEOUT_S = 300


class File(TypedDict):
    """`file` is its name in the package, `path` its name here."""

    file: str
    path: str
    sha256: str


class Package(TypedDict):
    name: str
    version: str
    licence: str
    files: list[File]


class Failure(Exception):
    """What went wrong, as a sentence; nothing was changed."""


def problems(packages: Sequence[Package]) -> Iterator[str]:
    """What does not lie here as the manifest says, a sentence each."""
    files = {file["path"]: file for package in packages for file in package["files"]}
    for path, file in files.items():
        try:
            if _sha256((HERE / path).read_bytes()) != file["sha256"]:
                yield f"{path} is not what the manifest says"
        except FileNotFoundError:
            yield f"{path} is missing"
    lying = {path.relative_to(HERE).as_posix() for path in HERE.rglob("*") if path.is_file()}
    for path in sorted(lying - files.keys() - OUR_OWN):
        yield f"{path} is not in the manifest"
    for package in packages:
        if not any(Path(file["path"]).name == "LICENSE.txt" for file in package["files"]):
            yield f"{package['name']} has no LICENSE.txt"


def fetch(package: Package, version: str) -> tuple[Package, dict[str, bytes]]:
    """The package at `version` (or "latest") with its new sums, and its files by their paths here.

    Raises `Failure`.
    """
    name = package["name"]
    with tempfile.TemporaryDirectory() as directory, tarfile.open(_pack(name, version, directory)) as archive:
        about = json.loads(_member(archive, "package.json"))
        if about["license"] != package["licence"]:
            raise Failure(
                f"The licence of {name} {about['version']} is {about['license']}, not {package['licence']}"
            )
        contents = {file["path"]: _member(archive, file["file"]) for file in package["files"]}
    files: list[File] = [
        {"file": file["file"], "path": file["path"], "sha256": _sha256(contents[file["path"]])}
        for file in package["files"]
    ]
    if about["version"] == package["version"] and files != package["files"]:
        raise Failure(f"{name} {about['version']} is no longer what it was when its sums were taken")
    return {
        "name": name,
        "version": about["version"],
        "licence": package["licence"],
        "files": files,
    }, contents


def _pack(name: str, version: str, directory: str) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise Failure("npm is needed, and not here")
    command = [npm, "pack", f"{name}@{version}", "--ignore-scripts", "--pack-destination", directory]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"npm did not fetch {name}@{version} within {TIMEOUT_S} s") from None
    archives = list(Path(directory).glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        raise Failure(f"npm did not fetch {name}@{version}:\n{done.stderr.strip()}")
    return archives[0]


def _member(archive: tarfile.TarFile, file: str) -> bytes:
    try:
        member = archive.extractfile(f"package/{file}")
    except KeyError:
        member = None
    if member is None:
        raise Failure(f"{Path(str(archive.name)).name} has no {file}")
    return member.read()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def renew(packages: Sequence[Package], versions: dict[str, str]) -> list[Package]:
    """Fetch all packages, those in `versions` at another version, and write what came. Raises `Failure`."""
    unknown = versions.keys() - {package["name"] for package in packages}
    if unknown:
        raise Failure(f"{', '.join(sorted(unknown))}: not in the manifest")
    fetched = [fetch(package, versions.get(package["name"], package["version"])) for package in packages]
    for _, contents in fetched:
        for path, content in contents.items():
            (HERE / path).parent.mkdir(parents=True, exist_ok=True)
            (HERE / path).write_bytes(content)
    renewed = [package for package, _ in fetched]
    MANIFEST.write_text(json.dumps(renewed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return renewed


def main() -> int:
    parser = argparse.ArgumentParser(description="Renew the modules in web/vendor.")
    parser.add_argument("to", nargs="*", metavar="NAME@VERSION", help="a package and the version it moves to")
    parser.add_argument("--latest", action="append", default=[], metavar="NAME", help="move to the newest")
    parser.add_argument("--check", action="store_true", help="only look at what lies here")
    options = parser.parse_args()
    versions = dict.fromkeys(options.latest, "latest")
    for text in options.to:
        name, _, version = text.rpartition("@")
        if not (name and version):
            parser.error(f"{text} is not NAME@VERSION")
        versions[name] = version
    packages: list[Package] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    try:
        if not options.check:
            packages = renew(packages, versions)
        if found := "\n".join(problems(packages)):
            raise Failure(found)
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    for package in packages:
        sys.stdout.write(f"{package['name']} {package['version']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
