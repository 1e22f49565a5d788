"""Choice of the build of llama.cpp: invented hosts, and what each should run."""

from __future__ import annotations

from typing import Any

import pytest

from llb.policy.engine_build.choice import (
    CPU,
    CUDA_12,
    CUDA_13,
    GPU_BUILDS,
    ROCM_7,
    VULKAN,
    GpuFacts,
    HostFacts,
    choose_builds,
    is_available,
)


def host(*gpus: GpuFacts, **facts: Any) -> HostFacts:
    """Linux on x86-64 of 2024 with the Vulkan drivers of all vendors."""
    values: dict[str, Any] = {
        "system": "linux",
        "machine": "x86_64",
        "glibc": (2, 39),
        "vulkan_vendors": ("nvidia", "amd", "intel"),
        "gpus": gpus,
    }
    return HostFacts(**(values | facts))


def nvidia(name: str, major: int, minor: int, **more: Any) -> GpuFacts:
    return GpuFacts(vendor="nvidia", name=name, capability=(major, minor), **more)


def amd(target: str, **more: Any) -> GpuFacts:
    return GpuFacts(vendor="amd", name=f"AMD {target}", target=target, **more)


def driver(*version: int, cuda: tuple[int, int]) -> dict[str, Any]:
    return {"nvidia_driver": version, "cuda": cuda}


RTX_4090, RTX_3060, RTX_5090 = nvidia("RTX 4090", 8, 9), nvidia("RTX 3060", 8, 6), nvidia("RTX 5090", 12, 0)
K40 = nvidia("K40", 3, 5)
UNKNOWN = GpuFacts(vendor="nvidia", name="NVIDIA 2684")
GTX_1060, TITAN_RTX, A100 = nvidia("GTX 1060", 6, 1), nvidia("TITAN RTX", 7, 5), nvidia("A100", 8, 0)
GB10, ORIN = nvidia("GB10", 12, 1, integrated=True), nvidia("Orin", 8, 7, integrated=True)
ARC, UHD = GpuFacts(vendor="intel", name="Arc"), GpuFacts(vendor="intel", name="UHD", integrated=True)
R535, R550 = driver(535, 183, 1, cuda=(12, 2)), driver(550, 54, 14, cuda=(12, 4))
R570, R580 = driver(570, 86, 10, cuda=(12, 8)), driver(580, 65, 6, cuda=(13, 0))
ROCM = {"rocm": (7, 2)}
TOO_OLD = "too old for CUDA"

HOSTS: dict[str, tuple[HostFacts, tuple[str, ...], str | None]] = {
    "no GPU": (host(), (CPU,), None),
    "Apple silicon": (host(system="darwin", machine="aarch64", glibc=None), (CPU,), None),
    "Intel Mac with an AMD card": (host(amd("gfx1030"), system="darwin", glibc=None), (CPU,), None),
    "RTX 4090, driver 570": (host(RTX_4090, **R570), (CUDA_12, VULKAN, CPU), None),
    "RTX 4090, driver 580": (host(RTX_4090, **R580), (CUDA_12, VULKAN, CPU), None),
    "RTX 4090, driver 550": (host(RTX_4090, **R550), (CUDA_12, VULKAN, CPU), None),
    "RTX 4090, driver 535": (host(RTX_4090, **R535), (VULKAN, CPU), "535.183.1 is " + TOO_OLD),
    "RTX 4090, driver 535, headless": (host(RTX_4090, **R535, vulkan_vendors=()), (CPU,), TOO_OLD),
    "RTX 5090, driver 570": (host(RTX_5090, **R570), (CUDA_12, VULKAN, CPU), None),
    "A100, driver 570": (host(A100, **R570), (CUDA_12, VULKAN, CPU), None),
    "A100, driver 580": (host(A100, **R580), (CUDA_12, VULKAN, CPU), None),
    "A100, driver 580, headless": (host(A100, **R580, vulkan_vendors=()), (CUDA_12, CPU), None),
    "TITAN RTX, driver 550": (host(TITAN_RTX, **R550), (VULKAN, CPU), "update it to version 570"),
    "GTX 1060, driver 570": (host(GTX_1060, **R570), (CUDA_12, VULKAN, CPU), None),
    "GTX 1060, driver 550": (host(GTX_1060, **R550), (VULKAN, CPU), "update it to version 570"),
    "RTX 3060 and GTX 1060, driver 550": (host(RTX_3060, GTX_1060, **R550), (VULKAN, CPU), TOO_OLD),
    "RTX 3060 and RTX 4090, driver 550": (host(RTX_3060, RTX_4090, **R550), (CUDA_12, VULKAN, CPU), None),
    "Kepler": (host(K40, **driver(470, 1, cuda=(11, 4))), (VULKAN, CPU), "too old for CUDA 12"),
    "Kepler beside RTX 3060": (host(K40, RTX_3060, **R570), (CUDA_12, VULKAN, CPU), None),
    "GB10, driver 580": (host(GB10, machine="aarch64", **R580), (CUDA_13, VULKAN, CPU), None),
    "GB10, driver 570": (host(GB10, machine="aarch64", **R570), (VULKAN, CPU), "update it to version 580"),
    "Jetson Orin": (host(ORIN, machine="aarch64", **driver(540, cuda=(12, 6))), (VULKAN, CPU), TOO_OLD),
    "all cards hidden": (host(nvidia("RTX 4090", 8, 9, hidden=True), **R570), (CPU,), None),
    "the old card hidden": (
        host(RTX_4090, nvidia("GTX 1060", 6, 1, hidden=True), **R550), (CUDA_12, VULKAN, CPU), None),
    "NVIDIA card without a driver": (
        host(UNKNOWN, vulkan_vendors=()), (CPU,), "No NVIDIA driver works"),
    "NVIDIA card with Mesa's driver": (
        host(UNKNOWN), (VULKAN, CPU), "No NVIDIA driver works"),
    "RTX 4090 on RHEL 9 (glibc 2.34)": (host(RTX_4090, **R570, glibc=(2, 34)), (CUDA_12, CPU), None),
    "RTX 4090 on CentOS 7 (glibc 2.17)": (host(RTX_4090, **R570, glibc=(2, 17)), (CPU,), "need glibc 2.28"),
    "RTX 4090 on Alpine": (host(RTX_4090, **R570, glibc=None), (CPU,), "There is no GPU build"),
    "RTX 4090 on Windows": (
        host(RTX_4090, system="windows", glibc=None, **R570), (CUDA_12, VULKAN, CPU), None),
    "RTX 4090 on POWER": (host(RTX_4090, machine="ppc64le", **R570), (CPU,), "There is no GPU build"),
    "RX 7900 with ROCm 7": (host(amd("gfx1100"), **ROCM), (ROCM_7, VULKAN, CPU), None),
    "RX 7900 with ROCm 6": (host(amd("gfx1100"), rocm=(6, 4)), (VULKAN, CPU), None),
    "RX 7900 without ROCm": (host(amd("gfx1100")), (VULKAN, CPU), None),
    "RX 7900 without any driver": (host(amd("gfx1100"), vulkan_vendors=()), (CPU,), "No Vulkan driver"),
    "RX 7900 with ROCm 7 on Debian 11": (
        host(amd("gfx1100"), **ROCM, glibc=(2, 31)), (CPU,), "need glibc 2.35"),
    "RX 580 with ROCm 7": (host(amd("gfx803"), **ROCM), (VULKAN, CPU), None),
    "MI350 with ROCm 7": (host(amd("gfx950"), **ROCM, vulkan_vendors=()), (ROCM_7, CPU), None),
    "Strix Halo": (host(amd("gfx1151", integrated=True)), (VULKAN, CPU), None),
    "Ryzen with Radeon 780M": (host(amd("gfx1103", integrated=True)), (CPU,), None),
    "Intel Arc": (host(ARC), (VULKAN, CPU), None),
    "Intel UHD": (host(UHD), (CPU,), None),
    "Intel UHD and RTX 4090": (host(UHD, RTX_4090, **R570), (CUDA_12, VULKAN, CPU), None),
    "RX 7900 and RTX 4090": (
        host(amd("gfx1100"), RTX_4090, **R570, **ROCM), (CUDA_12, ROCM_7, VULKAN, CPU), None),
    "a card that only Vulkan of another vendor drives": (
        host(ARC, vulkan_vendors=("amd",)), (CPU,), "No Vulkan"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTS)
def test_choice(name: str) -> None:
    facts, builds, problem = HOSTS[name]
    choice = choose_builds(facts)
    assert choice.builds == builds
    assert (choice.problem is None) == (problem is None), choice.problem
    assert (problem or "") in (choice.problem or "")
    if choice.problem is not None:
        assert choice.problem.endswith(".")
    assert all(is_available(build, facts) for build in builds)


def test_the_choice_ends_with_the_installed_build() -> None:
    assert all(choose_builds(facts).builds[-1] == CPU for facts, _, _ in HOSTS.values())


def test_a_build_is_one_that_exists() -> None:
    for facts, _, _ in HOSTS.values():
        assert set(choose_builds(facts).builds) <= {*GPU_BUILDS, CPU}
