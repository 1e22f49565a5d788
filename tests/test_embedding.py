"""The embedding example of the README, run as it is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 30.0


def example() -> str:
    """Return the first Python block of the section "Embedding" in README.md."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Embedding\n")[2]
    match = re.search(r"```python\n(.+?)```", section.partition("\n## ")[0], re.DOTALL)
    assert match is not None, "README.md has no example under '## Embedding'"
    return match[1]


@contextmanager
def running_example(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the example as a program in `folder`; a proxy that does not exist keeps it offline."""
    script = folder / "program.py"
    script.write_text(example(), encoding="utf-8")
    environment = os.environ | {
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_healthy(http: httpx.Client, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_example_serves_and_stops(tmp_path: Path) -> None:
    port = free_port()
    with (
        running_example(tmp_path, port) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http,
    ):
        wait_until_healthy(http, process)
        assert (tmp_path / "llb-data" / "llb.db").is_file()
        assert http.get("/api/models").status_code == 401
        # A process of its own: this one may hold connections of earlier tests, as a proxy does.
        script = (
            "import httpx, sys; http = httpx.Client(base_url=sys.argv[1], trust_env=False, timeout=60);"
            "http.post('/api/auth/login', json={'username': 'admin', 'password': 'test'}).raise_for_status();"
            "assert http.get('/api/models').json()['models']"
        )
        subprocess.run([sys.executable, "-c", script, str(http.base_url)], check=True, timeout=60)
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output


def test_the_example_can_be_imported_without_serving(tmp_path: Path) -> None:
    check = "import program; print(program.config.home, program.config.keep_alive_s, program.app.name)"
    (tmp_path / "program.py").write_text(example(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(tmp_path / "llb-data"), "1800.0", "llb"], done.stderr
    assert not (tmp_path / "llb-data").exists()
