"""Environment of engine processes."""

from __future__ import annotations

from pathlib import Path

from llb.hardware import (
    engine_environment,
)
from llb.hardware.engine_command import EngineBuild


def test_the_environment_of_a_child() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/home/a", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C",
        "LLB_ADMIN_PASSWORD": "x", "HF_TOKEN": "x", "HF_ENDPOINT": "x", "OPENAI_API_KEY": "x",
        "HTTPS_PROXY": "x",
        "CUDA_TOKEN": "x", "LLAMA_ARG_HOST": "::1", "AWS_SECRET_ACCESS_KEY": "x", "LD_PRELOAD": "x",
    }  # fmt: skip
    kept = engine_environment(ours)
    assert set(kept) == {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "LC_ALL", "PYTHONPATH", "GOMP_SPINCOUNT"}


def test_the_environment_of_a_build_beside_the_program() -> None:
    build = EngineBuild("cu128", "1", Path("/e/cu128-1"), (Path("/e/cu128-1/nvidia/cublas/lib"),))
    kept = engine_environment({"LD_LIBRARY_PATH": "/mine"}, build)
    assert kept["PYTHONPATH"].split(":") == ["/e/cu128-1", engine_environment({})["PYTHONPATH"]]
    assert kept["LD_LIBRARY_PATH"] == "/e/cu128-1/nvidia/cublas/lib:/mine"
