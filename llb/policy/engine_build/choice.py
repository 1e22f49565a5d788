"""Choice of the build of llama.cpp for a host, by its GPUs and drivers.

The conditions are those of xllamacpp 2026.10: GPUs for which its builds have code, and drivers and C
libraries with which they start.
"""

from __future__ import annotations

import re

from msgspec import Struct

from llb.texts.coded_text import CodedText

# The package that is installed with llb: CPU, and Metal on Macs with Apple silicon.
CPU = "cpu"
CUDA_12, CUDA_13, ROCM_7, VULKAN = "cu128", "cu132", "rocm-7.2.4", "vulkan"
# Additional builds; of several that work, the first is the fastest.
GPU_BUILDS = (CUDA_13, CUDA_12, ROCM_7, VULKAN)
# Approximate download sizes: CUDA's include NVIDIA's libraries; ROCm's is not measured.
DOWNLOAD_BYTES = {CUDA_13: 1_100_000_000, CUDA_12: 1_100_000_000, ROCM_7: 400_000_000, VULKAN: 70_000_000}

# Version of CUDA that each build needs from the driver.
_CUDA_12_VERSION, _CUDA_13_VERSION = (12, 8), (13, 0)
_CUDA_12_DRIVER, _CUDA_13_DRIVER = 570, 580
# An older driver does not compile code of CUDA 12.8, but runs what is compiled: for these GPUs only.
_MIN_NATIVE_DRIVER = (550,)
_NATIVE_CAPABILITIES = frozenset({(8, 6), (8, 9)})
_MIN_CAPABILITY = (5, 0)
# GB10: the build for CUDA 12.8 has no code for it.
_CUDA_13_CAPABILITIES = frozenset({(12, 1)})
# Platform tags of the wheels. That of CUDA has none that says so.
_MIN_GLIBC = (2, 35)
_MIN_CUDA_GLIBC = (2, 28)
# RDNA 2 to 4, Strix, MI350.
_ROCM_TARGETS = re.compile(r"gfx(103[0-6]|110[0-3]|115[0-3]|120[01]|950)")
_ROCM_MAJOR = 7
# Integrated, but as fast as a card: Strix Halo.
_FAST_INTEGRATED_TARGETS = frozenset({"gfx1151"})


class GpuFacts(Struct, frozen=True, kw_only=True):
    """GPU of a host. `vendor` is nvidia, amd or intel, `address` its PCI address, such as 0000:01:00.0.

    `capability` is the compute capability of CUDA, `target` the name of ROCm's (gfx1100). A `hidden` GPU is
    one that the user hides from programs, with CUDA_VISIBLE_DEVICES.
    """

    vendor: str
    name: str
    address: str = ""
    memory_total_bytes: int = 0
    integrated: bool = False
    hidden: bool = False
    capability: tuple[int, int] | None = None
    target: str = ""


class HostFacts(Struct, frozen=True, kw_only=True):
    """Facts about a host that decide which builds start on it.

    `system` and `machine` are linux, darwin or windows, and x86_64 or aarch64. `vulkan_vendors` have a Vulkan
    driver.
    """

    system: str
    machine: str
    glibc: tuple[int, int] | None = None
    gpus: tuple[GpuFacts, ...] = ()
    nvidia_driver: tuple[int, ...] | None = None
    # The newest version of CUDA that the driver supports.
    cuda: tuple[int, int] | None = None
    rocm: tuple[int, int] | None = None
    vulkan_vendors: tuple[str, ...] = ()

    @property
    def visible_gpus(self) -> tuple[GpuFacts, ...]:
        return tuple(gpu for gpu in self.gpus if not gpu.hidden)


class BuildChoice(Struct, frozen=True):
    """Builds to try, best first, CPU last; a sentence if the best one needs something of the user."""

    builds: tuple[str, ...]
    problem: str | None = None


def choose_builds(facts: HostFacts) -> BuildChoice:
    """Return the builds of llama.cpp for a host."""
    if facts.system == "darwin" or not facts.visible_gpus:
        # The package that is installed on Macs has Metal.
        return BuildChoice((CPU,))
    builds: list[str] = []
    problems: list[str] = []
    for choose in (_choose_cuda, _choose_rocm, _choose_vulkan):
        build, problem = choose(facts)
        builds += [build] if build else []
        problems += [problem] if problem and not builds else []
    return BuildChoice((*builds, CPU), problems[0] if problems else None)


def is_available(variant: str, facts: HostFacts) -> bool:
    """Return whether there is a build of this name for the system, the processor and the C library."""
    if variant == CPU:
        return True
    wanted = _MIN_CUDA_GLIBC if variant in (CUDA_12, CUDA_13) else _MIN_GLIBC
    machines = {
        "linux": ("x86_64",) if variant == ROCM_7 else ("x86_64", "aarch64"),
        "windows": () if variant == ROCM_7 else ("x86_64",),
    }.get(facts.system, ())
    has_libc = facts.system != "linux" or (facts.glibc is not None and facts.glibc >= wanted)
    return facts.machine in machines and has_libc


def _choose_cuda(facts: HostFacts) -> tuple[str | None, str | None]:
    cards = [gpu for gpu in facts.visible_gpus if gpu.vendor == "nvidia"]
    if not cards:
        return None, None
    names = ", ".join(dict.fromkeys(gpu.name for gpu in cards))
    driver = ".".join(map(str, facts.nvidia_driver or ()))
    if facts.nvidia_driver is None and facts.cuda is None:
        return None, CodedText(
            "gpu_no_nvidia_driver",
            "No NVIDIA driver works for {names}: install version {version} or later, "
            "or give the container access to the GPU.",
            names=names,
            version=_CUDA_12_DRIVER,
        )
    capabilities = [gpu.capability for gpu in cards if gpu.capability is not None]
    supported = {capability for capability in capabilities if capability >= _MIN_CAPABILITY}
    if capabilities and not supported:
        return None, CodedText(
            "gpu_too_old", "{names} is too old for CUDA 12: compute capability 5.0 is needed.", names=names
        )
    needs_13 = bool(supported & _CUDA_13_CAPABILITIES)
    variant = CUDA_13 if needs_13 else CUDA_12
    if not is_available(variant, facts):
        return None, _libc_problem(facts, _MIN_CUDA_GLIBC)
    cuda = facts.cuda or (0, 0)
    if cuda >= (_CUDA_13_VERSION if needs_13 else _CUDA_12_VERSION):
        return variant, None
    has_native_code = bool(supported) and supported <= _NATIVE_CAPABILITIES
    if has_native_code and (facts.nvidia_driver or ()) >= _MIN_NATIVE_DRIVER:
        return variant, None
    update = _CUDA_13_DRIVER if needs_13 else _CUDA_12_DRIVER
    return None, CodedText(
        "gpu_old_driver",
        "The NVIDIA driver {driver} is too old for CUDA on {names}: update it to version {version} or later.",
        driver=driver or "of this host",
        names=names,
        version=update,
    )


def _choose_rocm(facts: HostFacts) -> tuple[str | None, str | None]:
    cards = [gpu for gpu in facts.visible_gpus if gpu.vendor == "amd" and not gpu.integrated]
    if facts.rocm is None or facts.rocm[0] != _ROCM_MAJOR:
        return None, None
    if any(_ROCM_TARGETS.fullmatch(gpu.target) for gpu in cards) and is_available(ROCM_7, facts):
        return ROCM_7, None
    return None, None


def _choose_vulkan(facts: HostFacts) -> tuple[str | None, str | None]:
    cards = [
        gpu
        for gpu in facts.visible_gpus
        if not gpu.integrated or gpu.vendor == "nvidia" or gpu.target in _FAST_INTEGRATED_TARGETS
    ]
    if not cards:
        return None, None
    if not is_available(VULKAN, facts):
        return None, _libc_problem(facts, _MIN_GLIBC)
    if any(gpu.vendor in facts.vulkan_vendors for gpu in cards):
        return VULKAN, None
    names = ", ".join(dict.fromkeys(gpu.name for gpu in cards))
    return None, CodedText(
        "gpu_no_vulkan_driver",
        "No Vulkan driver for {names}: install the one of your system (mesa-vulkan-drivers).",
        names=names,
    )


def _libc_problem(facts: HostFacts, wanted: tuple[int, int]) -> str:
    if facts.system == "linux" and facts.glibc is not None and facts.glibc < wanted:
        found, needed = (".".join(map(str, version)) for version in (facts.glibc, wanted))
        return CodedText(
            "gpu_old_glibc",
            "The GPU builds of llama.cpp need glibc {needed}, this system has {found}: upgrade it.",
            needed=needed,
            found=found,
        )
    return CodedText(
        "gpu_no_build",
        "There is no GPU build of llama.cpp for {system} on {machine}.",
        system=facts.system,
        machine=facts.machine,
    )
