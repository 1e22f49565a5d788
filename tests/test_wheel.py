"""The wheel has page, catalogue and migrations beside the code; the sdist has what makes the wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_and_sdist_are_complete(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {
        "llb/__main__.py",
        "llb/py.typed",
        "llb/_share/supported_models.json",
        "llb/_share/prices.json",
        "llb/_share/web/index.html",
    } <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "llb").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "e2e"))]
    assert "llb = llb.__main__:main" in points
    assert "Classifier: Typing :: Typed" in metadata
    assert (ROOT / "README.md").read_text() in metadata
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as source:
        packed = {name.partition("/")[2] for name in source.getnames()}
    assert modules <= packed
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "prices.json", "web/index.html"} <= packed
