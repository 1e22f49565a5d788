"""Description of a host: each GPU once, even if two tools list it, and the engine in one line."""

from __future__ import annotations

from llb.hardware import ComputeDevice, summarise_engine
from llb.hardware.description import advise_on_build, describe_engine, describe_hardware
from llb.hardware.devices import EngineDevices
from llb.hardware.engine_command import EngineBuild
from llb.hardware.nvml import NvidiaGpu
from llb.policy.engine_build.choice import GpuFacts, HostFacts
from tests.hardware.fakes import CPU, GB, gpu

RTX = NvidiaGpu(
    name="NVIDIA RTX 4090",
    pci_address="00000000:01:00.0",
    memory_total_bytes=24 * GB,
    memory_free_bytes=18 * GB,
    handle=None,
)
RTX_FACTS = GpuFacts(vendor="nvidia", name="NVIDIA GPU 2684", address="0000:01:00.0")
RADEON_FACTS = GpuFacts(vendor="amd", name="AMD Radeon", address="0000:03:00.0")
BUILD = EngineBuild("cpu", "0.2.4567")


def host(*gpus: GpuFacts) -> HostFacts:
    return HostFacts(system="linux", machine="x86_64", glibc=(2, 39), gpus=gpus)


def listed(*devices: ComputeDevice, nvidia: bool = True, facts: HostFacts) -> list[tuple[str, bool, bool]]:
    """Name, usable and hidden of each GPU that is described."""
    engine = EngineDevices(devices=devices)
    described = describe_hardware([RTX] if nvidia else [], engine, facts, None)
    return [(each.name, each.usable, each.hidden) for each in described.gpus]


def test_a_gpu_that_three_sources_list_is_described_once() -> None:
    device = gpu("CUDA0", device_id="0000:01:00.0")
    assert listed(CPU, device, facts=host(RTX_FACTS)) == [("NVIDIA RTX 4090", True, False)]


def test_a_gpu_that_only_the_bus_lists_comes_last() -> None:
    device = gpu("CUDA0", device_id="0000:01:00.0")
    assert listed(CPU, device, facts=host(RADEON_FACTS, RTX_FACTS)) == [
        ("NVIDIA RTX 4090", True, False),
        ("AMD Radeon", False, False),
    ]


def test_a_device_without_an_address_may_be_any_gpu_of_the_bus() -> None:
    assert listed(CPU, gpu("Vulkan0"), nvidia=False, facts=host(RADEON_FACTS)) == [("Vulkan0", True, False)]


def test_the_processor_is_named_by_the_engine_and_else_by_the_system() -> None:
    assert describe_hardware([], EngineDevices(devices=(CPU,)), host(), None).cpu == "A Processor"
    assert describe_hardware([], EngineDevices(), host(), None).cpu


def test_the_engine_in_one_line() -> None:
    on_cpu = describe_engine(BUILD, EngineDevices(devices=(CPU,)), None)
    assert summarise_engine(on_cpu) == "llama.cpp 4567, CPU only"
    on_gpu = describe_engine(BUILD, EngineDevices(build="cuda", devices=(gpu(size=24 * 2**30), CPU)), "Why.")
    assert summarise_engine(on_gpu).endswith(", CUDA, CUDA0 24 GB. Why.")


def test_a_gpu_that_only_its_library_lists_gets_advice() -> None:
    """No child could load the driver."""
    engine = EngineDevices(devices=(CPU,))
    assert advise_on_build(BUILD, engine, host(), []).problem is None
    advice = advise_on_build(BUILD, engine, host(), [RTX])
    assert advice.problem is not None
    assert "NVIDIA RTX 4090" in advice.problem
