"""The wheel has page, catalogue and migrations beside the code, and runs; the sdist makes the wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest

from llb.base import runfile
from tests.processes import ROOT, clean_environment, wait_until


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_installed_wheel_serves_its_own_page_and_catalogue(distributions: Path, tmp_path: Path) -> None:
    """Beside the packages of the tests, without the checkout."""
    [wheel] = distributions.glob("*.whl")
    site, home = tmp_path / "site", tmp_path / "home"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    environment = clean_environment(LLB_HOME=str(home), PYTHONPATH=str(site))
    where = [sys.executable, "-P", "-c", "import llb; print(llb.__file__)"]
    found = subprocess.check_output(where, env=environment, cwd=tmp_path, text=True).strip()
    assert Path(found).is_relative_to(site)
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "llb", "--port", "0"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: server.poll() is not None or runfile.find_running_server(home) is not None)
        running = runfile.find_running_server(home)
        assert running is not None, server.returncode
        headers = {"Authorization": f"Bearer {running.token}"}
        with httpx.Client(base_url=running.url, headers=headers, trust_env=False, timeout=60) as client:
            assert "<title>llb</title>" in client.get("/").text
            assert len(client.get("/api/models").json()["models"]) > 20
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


def test_wheel_and_sdist_are_complete(distributions: Path) -> None:
    [wheel] = distributions.glob("*.whl")
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
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as source:
        packed = {name.partition("/")[2] for name in source.getnames()}
    assert modules <= packed
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "prices.json", "web/index.html"} <= packed
