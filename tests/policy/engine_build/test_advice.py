"""Advice on the build of llama.cpp: why a better one is not in use, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from llb.policy.engine_build.advice import InstalledBuild, advise, format_size
from llb.policy.engine_build.choice import CUDA_12, VULKAN, GpuFacts, HostFacts

ADA = GpuFacts(vendor="nvidia", name="RTX 4090", address="0000:01:00.0", capability=(8, 9))
UHD = GpuFacts(vendor="intel", name="UHD", address="0000:00:02.0", integrated=True)
PRESENT = "A GPU is present (RTX 4090), but llama.cpp runs on the CPU: "
CPU_BUILD = InstalledBuild(kind="cpu")


def host(*gpus: GpuFacts, driver: tuple[int, ...] = (570, 1), cuda: tuple[int, int] = (12, 8)) -> HostFacts:
    return HostFacts(
        system="linux",
        machine="x86_64",
        glibc=(2, 39),
        gpus=gpus,
        nvidia_driver=driver,
        cuda=cuda,
        vulkan_vendors=("nvidia",),
    )


def cpu(**values: Any) -> InstalledBuild:
    return InstalledBuild(kind="cpu", **values)


@pytest.mark.parametrize(
    ("facts", "build", "reason", "is_problem"),
    [
        (host(), CPU_BUILD, None, False),
        (host(GpuFacts(vendor="nvidia", name="RTX 4090", hidden=True)), CPU_BUILD, None, False),
        (host(ADA), InstalledBuild(kind="cuda", variant=CUDA_12, gpu_count=1), None, False),
        (host(ADA), InstalledBuild(kind="metal", gpu_count=1), None, False),
        (host(ADA), CPU_BUILD, PRESENT + "run 'llb engine install' (about 1.1 GB).", True),
        (host(ADA), cpu(is_fixed=True), PRESENT + "'llb engine use cpu' chose that.", False),
        (host(ADA), cpu(rejected=((CUDA_12, "libcublas.so.12 is missing"),)),
         PRESENT + "run 'llb engine install' (about 70 MB).", True),
        (host(ADA), cpu(rejected=((CUDA_12, "libcublas.so.12 is missing"), (VULKAN, "it finds no GPU"))),
         PRESENT + "build cu128 does not work: libcublas.so.12 is missing. "
         "Fix that, then run 'llb engine install'.", True),
        (host(ADA), InstalledBuild(kind="cuda", variant=CUDA_12),
         PRESENT + "the CUDA build finds no GPU; see 'llb doctor'.", True),
        (host(ADA), InstalledBuild(kind="vulkan", variant=VULKAN, gpu_count=1,
                                   rejected=((CUDA_12, "no kernel image"),)),
         "Build cu128 does not work here: no kernel image.", False),
        (host(ADA, driver=(535, 1), cuda=(12, 2)), CPU_BUILD,
         PRESENT + "run 'llb engine install' (about 70 MB). The NVIDIA driver 535.1 is too old for CUDA on "
         "RTX 4090: update it to version 570 or later.", True),
        (host(UHD), CPU_BUILD,
         "A GPU is present (UHD), but llama.cpp runs on the CPU: no build is faster on it.", False),
    ],
)  # fmt: skip
def test_advice(facts: HostFacts, build: InstalledBuild, reason: str | None, is_problem: bool) -> None:
    advice = advise(facts, build)
    assert advice.reason == reason
    assert advice.problem == (reason if is_problem else None)


def test_a_gpu_that_the_build_cannot_use_beside_one_that_it_can() -> None:
    build = InstalledBuild(kind="cuda", variant=CUDA_12, gpu_count=1)
    advice = advise(host(ADA), build, ["GTX 680", "GTX 680"])
    assert advice.problem == "The CUDA build of llama.cpp cannot use GTX 680: models run on the other GPUs."
    assert advice.reason == advice.problem


def test_a_problem_without_a_build_to_install() -> None:
    facts = HostFacts(system="linux", machine="x86_64", glibc=(2, 39), gpus=(ADA,))
    assert advise(facts, CPU_BUILD).problem == (
        PRESENT + "no NVIDIA driver works for RTX 4090: install version 570 or later, "
        "or give the container access to the GPU."
    )


def test_sizes() -> None:
    assert [format_size(size) for size in (70_000_000, 1_100_000_000)] == ["70 MB", "1.1 GB"]
