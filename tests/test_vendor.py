"""web/vendor: the modules are as published, and `renew.py` updates them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

VENDOR = Path(__file__).parent.parent / "web" / "vendor"

# Fake npm: `pack NAME@VERSION … --pack-destination DIR` copies a prepared package.
NPM = """#!{python}
import shutil, sys
name, version = sys.argv[2].rsplit("@", 1)
try:
    shutil.copy("{shelf}/" + f"{{name}}-{{version}}.tgz", sys.argv[-1])
except FileNotFoundError:
    sys.exit("404 Not Found - " + sys.argv[2])
"""


def renew(directory: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(path or "/nowhere")}
    return subprocess.run(
        [sys.executable, str(directory / "renew.py"), *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest(directory: Path) -> Any:
    return json.loads((directory / "manifest.json").read_text())


def test_all_lies_there_as_published_with_its_licence_and_nothing_else() -> None:
    packages = manifest(VENDOR)
    sums = {file["path"]: file["sha256"] for package in packages for file in package["files"]}
    lying = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert lying == {*sums, "manifest.json", "renew.py"}
    assert {path: sha256((VENDOR / path).read_bytes()) for path in sums} == sums
    for package in packages:
        assert package["version"]
        assert package["licence"]
        directories = {Path(file["path"]).parts[0] for file in package["files"]}
        assert [f"{directory}/LICENSE.txt" in sums for directory in directories] == [True]
    checked = renew(VENDOR, "--check")
    assert checked.returncode == 0, checked.stderr
    assert "dompurify 3" in checked.stdout


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Directory of the packages of the fake npm."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    npm = shelf / "npm"
    npm.write_text(NPM.format(python=sys.executable, shelf=shelf))
    npm.chmod(0o755)
    return shelf


def publish(shelf: Path, version: str, *, tag: str | None = None, licence: str = "MIT", **files: str) -> None:
    contents = {
        "package.json": json.dumps({"name": "mod", "version": version, "license": licence}),
        "LICENSE": "may be used",
        **{name.replace("_", "."): text for name, text in files.items()},
    }
    with tarfile.open(shelf / f"mod-{tag or version}.tgz", "w:gz") as archive:
        for name, text in contents.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def vendor(tmp_path: Path, shelf: Path) -> Path:
    """Directory like web/vendor with one package, `mod` 1.0.0."""
    vendor = tmp_path / "vendor"
    (vendor / "mod").mkdir(parents=True)
    shutil.copy(VENDOR / "renew.py", vendor)
    files = {"mod.mjs": ("mod/mod.js", b"one"), "LICENSE": ("mod/LICENSE.txt", b"may be used")}
    for path, content in files.values():
        (vendor / path).write_bytes(content)
    listed = [
        {"file": name, "path": path, "sha256": sha256(content)} for name, (path, content) in files.items()
    ]
    (vendor / "manifest.json").write_text(
        json.dumps([{"name": "mod", "version": "1.0.0", "licence": "MIT", "files": listed}])
    )
    publish(shelf, "1.0.0", mod_mjs="one")
    return vendor


def test_what_is_wrong_is_found(vendor: Path) -> None:
    assert renew(vendor, "--check").returncode == 0
    (vendor / "mod/mod.js").write_text("one, and a little more")
    (vendor / "mod/LICENSE.txt").unlink()
    (vendor / "extra.js").write_text("")
    checked = renew(vendor, "--check")
    assert checked.returncode == 1
    assert checked.stderr.splitlines() == [
        "mod/mod.js is not what the manifest says",
        "mod/LICENSE.txt is missing",
        "extra.js is not in the manifest",
    ]


def test_a_package_without_its_licence_is_found(vendor: Path) -> None:
    [package] = manifest(vendor)
    package["files"] = package["files"][:1]
    (vendor / "manifest.json").write_text(json.dumps([package]))
    (vendor / "mod/LICENSE.txt").unlink()
    assert renew(vendor, "--check").stderr == "mod has no LICENSE.txt\n"


def test_what_was_lost_comes_back(vendor: Path, shelf: Path) -> None:
    before = manifest(vendor)
    shutil.rmtree(vendor / "mod")
    renewed = renew(vendor, path=shelf)
    assert (renewed.returncode, renewed.stdout) == (0, "mod 1.0.0\n")
    assert (vendor / "mod/mod.js").read_text() == "one"
    assert manifest(vendor) == before


@pytest.mark.parametrize("words", [("mod@2.0.0",), ("--latest", "mod")])
def test_another_version(vendor: Path, shelf: Path, words: tuple[str, ...]) -> None:
    for tag in ("2.0.0", "latest"):
        publish(shelf, "2.0.0", tag=tag, mod_mjs="two")
    renewed = renew(vendor, *words, path=shelf)
    assert (renewed.returncode, renewed.stdout) == (0, "mod 2.0.0\n")
    assert (vendor / "mod/mod.js").read_text() == "two"
    [package] = manifest(vendor)
    assert (package["version"], package["files"][0]["sha256"]) == ("2.0.0", sha256(b"two"))
    assert renew(vendor, "--check").returncode == 0


@pytest.mark.parametrize(
    ("published", "words", "sentence"),
    [
        ({"version": "1.0.0", "mod_mjs": "evil"}, (), "mod 1.0.0 is no longer what it was"),
        (
            {"version": "2.0.0", "mod_mjs": "two", "licence": "Proprietary"},
            ("mod@2.0.0",),
            "The licence of mod 2.0.0 is Proprietary, not MIT",
        ),
        ({"version": "2.0.0", "main_js": "two"}, ("mod@2.0.0",), "mod-2.0.0.tgz has no mod.mjs"),
        (
            {"version": "2.0.0", "mod_mjs": "two"},
            ("mod@3.0.0",),
            "npm did not fetch mod@3.0.0:\n404 Not Found",
        ),
        ({"version": "2.0.0", "mod_mjs": "two"}, ("other@2.0.0",), "other: not in the manifest"),
    ],
)
def test_what_is_refused_changes_nothing(
    vendor: Path, shelf: Path, published: dict[str, str], words: tuple[str, ...], sentence: str
) -> None:
    publish(shelf, **published)
    before = manifest(vendor)
    refused = renew(vendor, *words, path=shelf)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(sentence)
    assert manifest(vendor) == before
    assert (vendor / "mod/mod.js").read_text() == "one"


def test_without_npm_it_says_so(vendor: Path) -> None:
    assert renew(vendor).stderr == "npm is needed, and not here\n"
