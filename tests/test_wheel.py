"""The wheel contains the page, the catalogue and the migrations beside the code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {
        "llb/__main__.py",
        "llb/_share/supported_models.json",
        "llb/_share/prices.json",
        "llb/_share/web/index.html",
    } <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "llb").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "e2e"))]
    assert "llb = llb.__main__:main" in points
