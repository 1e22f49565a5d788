"""Restrictions of an engine: the claims of docs/security.md, tried from inside; its files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llb.engine.sandbox import landlock, restrictions
from llb.engine.sandbox.engine_user import ENGINE_USER_IDS
from llb.hardware import EngineBuild, engine_environment
from tests.engine.sandbox.prober import BUILD_FILE

NOBODY = 65534
# Permissions that only an engine with a GPU has: its driver needs them.
GPU_MAY = {
    "loading": {"a Unix socket", "a pair of Unix sockets", "an anonymous file", "a file in /dev/shm",
                "truncating an open file", "locking a file", "flock", "watching files"},
    "serving": {"a pair of Unix sockets", "an anonymous file", "a file in /dev/shm",
                "truncating an open file", "locking a file", "flock", "watching files",
                "executable memory", "making memory executable", "a library"},
}  # fmt: skip
SECRETS = {"HF_TOKEN": "a-secret", "LLB_ADMIN_PASSWORD": "a-secret", "OPENAI_API_KEY": "a-secret"}


def probe(user_id: int, *arguments: str) -> dict[str, Any]:
    """Run the prober in a directory that every user can read; returns its results."""
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        build = EngineBuild("vulkan", "1", directory / "home" / Path(BUILD_FILE).parent)
        for name, size_bytes in (
            ("models/m.gguf", 8192),
            ("models/other.gguf", 8),
            ("home/run.json", 8),
            ("home/engines/use", 8),
            (f"home/{BUILD_FILE}", 8),
        ):
            path = directory / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(bytes(size_bytes))
        command = [sys.executable, "-P", "-m", "tests.engine.sandbox.prober", str(directory), str(user_id)]
        environment = engine_environment(os.environ | SECRETS | {"HOME": str(directory)}, build)
        with subprocess.Popen(
            [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            try:
                port = int(child.stdout.readline())
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"x")
                    found: dict[str, Any] = json.loads(child.stdout.readline())
            finally:
                child.kill()
        assert (directory / "models" / "m.gguf").read_bytes() == bytes(8192)
        return found
    finally:
        shutil.rmtree(directory)
        Path("/dev/shm/llb-test").unlink(missing_ok=True)


def users() -> Iterator[Any]:
    """Yield the users of which the claims are tried: as llb runs here, and an ordinary one."""
    yield pytest.param(0, id="as-it-runs")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield pytest.param(NOBODY, id="nobody")


@pytest.fixture(scope="module", params=users())
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _require_sandbox(probe(request.param))


def _require_sandbox(found: dict[str, Any]) -> dict[str, Any]:
    if not found["seccomp"] or not found["landlock_version"]:
        pytest.skip("this kernel has no Landlock or no seccomp")
    return found


def not_refused(found: dict[str, Any], phase: str) -> dict[str, str]:
    assert len(found[phase]) > 130
    return {claim: outcome for claim, outcome in found[phase].items() if outcome != "refused"}


linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Landlock and seccomp are Linux's"
)


@linux_only
@pytest.mark.parametrize("phase", ["loading", "serving", "threads"])
def test_every_claim_holds_from_inside(found: dict[str, Any], phase: str) -> None:
    assert not_refused(found, phase) == {}


@linux_only
def test_what_an_engine_needs_works(found: dict[str, Any]) -> None:
    assert set(found["allowed"].values()) == {"done"}


@linux_only
def test_the_process_has_no_privilege_left_and_knows_no_secret(found: dict[str, Any]) -> None:
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    user_ids = set(status["Uid"].split())
    assert len(user_ids) == 1
    if found["user_id"] is not None:
        assert user_ids == {str(found["user_id"])}
    assert user_ids != {"0"}
    assert set(status["Gid"].split()) != {"0"}
    assert not SECRETS.keys() & set(found["environment"])


@linux_only
def test_an_engine_with_gpu_may_do_only_what_drivers_need() -> None:
    found = _require_sandbox(probe(0, "gpu"))
    for phase in ("loading", "serving"):
        assert set(not_refused(found, phase)) <= GPU_MAY[phase]
    assert set(found["allowed"].values()) == {"done"}


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root can become the engines' user"
)
def test_engines_of_root_have_a_user_of_their_own() -> None:
    found = probe(0)
    assert found["user_id"] in ENGINE_USER_IDS


def test_the_files_of_a_model_are_its_shards_and_its_projector() -> None:
    assert restrictions.model_paths("/m/a.gguf", None) == ("/m/a.gguf",)
    assert restrictions.model_paths("/m/a-00002-of-00003.gguf", "/m/p.gguf") == (
        "/m/a-00001-of-00003.gguf",
        "/m/a-00002-of-00003.gguf",
        "/m/a-00003-of-00003.gguf",
        "/m/p.gguf",
    )


def test_a_vulkan_driver_that_the_user_names_can_be_read_with_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, manifest = tmp_path / "layers", tmp_path / "icd.json"
    layers.mkdir()
    manifest.write_text('{"ICD": {"library_path": "/opt/gpu/libvulkan_x.so", "api_version": "1.3.0"}}')
    (layers / "a.json").write_text('{"layer": {"library_path": "../libLayer.so"}}')
    (layers / "b.json").write_text('{"layer": {"library_path": "libSearched.so"}}')
    monkeypatch.setenv("VK_DRIVER_FILES", os.pathsep.join([str(manifest), str(tmp_path / "gone.json")]))
    monkeypatch.setenv("VK_LAYER_PATH", str(layers))

    def readable(*, gpu: bool) -> set[str]:
        access = restrictions.EngineAccess(gpu=gpu)
        return {str(path) for path, rights in restrictions._path_rules(access, []) if rights is landlock.READ}

    named = {str(manifest), "/opt/gpu/libvulkan_x.so", str(layers), str(layers / "../libLayer.so")}
    assert named <= readable(gpu=True)
    assert not named & readable(gpu=False)
    assert not [path for path in readable(gpu=True) if path.endswith("libSearched.so")]
