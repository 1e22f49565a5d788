"""Description of this host for people and for the balancer: processor, memory, GPUs, engine."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from msgspec.structs import replace

from llb.hardware.devices import ComputeDevice, EngineDevices
from llb.hardware.engine_command import EngineBuild
from llb.hardware.limits import cpu_count, memory_total_bytes
from llb.hardware.nvidia_driver import normalise_address
from llb.hardware.nvml import NvidiaGpu
from llb.policy.engine_build.advice import BuildAdvice, InstalledBuild, advise
from llb.policy.engine_build.choice import GpuFacts, HostFacts
from llb.wire import EngineDevice, EngineInfo, Gpu, Hardware, text_code_of

GPU_KINDS = ("gpu", "igpu")
_BUILD_NAMES = {"cuda": "CUDA", "rocm": "ROCm", "vulkan": "Vulkan", "metal": "Metal"}


def describe_hardware(
    nvidia_gpus: Sequence[NvidiaGpu], engine: EngineDevices, facts: HostFacts, info: EngineInfo | None
) -> Hardware:
    """Return the hardware: first the GPUs of NVIDIA's library, in its order, then others."""
    hidden = {gpu.address for gpu in facts.gpus if gpu.hidden}
    gpus = [
        Gpu(
            name=gpu.name,
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=gpu.memory_free_bytes,
            usable=gpu.is_usable_by(engine.devices),
            hidden=normalise_address(gpu.pci_address) in hidden,
        )
        for gpu in nvidia_gpus
    ]
    gpus += [
        Gpu(
            name=device.description,
            memory_total_bytes=device.memory_total_bytes,
            memory_free_bytes=device.memory_free_bytes,
            usable=True,
        )
        for device in engine.devices
        if device.kind in GPU_KINDS and not any(gpu.matches_device(device) for gpu in nvidia_gpus)
    ]
    gpus += [
        Gpu(
            name=gpu.name,
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=0,
            usable=False,
            hidden=gpu.hidden,
        )
        for gpu in _unlisted(nvidia_gpus, engine.devices, facts)
    ]
    cpu = next((device.description for device in engine.devices if device.kind == "cpu"), None)
    return Hardware(
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_count=cpu_count(),
        memory_total_bytes=memory_total_bytes(),
        gpus=tuple(gpus),
        engine=info,
    )


def describe_engine(build: EngineBuild, engine: EngineDevices, reason: str | None) -> EngineInfo:
    """Return the build in use and its devices."""
    return EngineInfo(
        build=engine.build,
        version=build.version,
        variant=build.variant,
        devices=tuple(
            EngineDevice(
                name=device.description or device.name,
                kind=device.kind,
                memory_total_bytes=device.memory_total_bytes,
                memory_free_bytes=device.memory_free_bytes,
            )
            for device in engine.devices
        ),
        reason=None if reason is None else str(reason),
        reason_code=text_code_of(reason),
    )


def summarise_engine(info: EngineInfo) -> str:
    """Return one line: the version of llama.cpp, what it computes on, and what would be better."""
    number = info.version.rpartition(".")[2] or info.version
    gpus = [device for device in info.devices if device.kind in GPU_KINDS]
    if not gpus:
        line = f"llama.cpp {number}, CPU only"
    else:
        names = [f"{device.name} {device.memory_total_bytes / 2**30:.0f} GB" for device in gpus]
        line = f"llama.cpp {number}, {_BUILD_NAMES.get(info.build, info.build)}, {', '.join(names)}"
    return line if info.reason is None else f"{line}. {info.reason}"


def advise_on_build(
    build: EngineBuild, engine: EngineDevices, facts: HostFacts, nvidia_gpus: Sequence[NvidiaGpu]
) -> BuildAdvice:
    """Return why a better build is not in use, and what can be done about it."""
    if not facts.gpus:
        # No child could load the driver, but its library lists GPUs.
        known = tuple(
            GpuFacts(vendor="nvidia", name=gpu.name, address=normalise_address(gpu.pci_address))
            for gpu in nvidia_gpus
        )
        facts = replace(facts, gpus=known)
    computing = [device for device in engine.devices if device.kind in GPU_KINDS]
    hidden = {gpu.address for gpu in facts.gpus if gpu.hidden}
    unusable = [
        gpu.name
        for gpu in nvidia_gpus
        if not gpu.is_usable_by(engine.devices) and normalise_address(gpu.pci_address) not in hidden
    ]
    others = _unlisted(nvidia_gpus, engine.devices, facts)
    unusable += [gpu.name for gpu in others if not gpu.hidden and not gpu.integrated]
    installed = InstalledBuild(
        kind=engine.build,
        variant=build.variant,
        gpu_count=len(computing),
        rejected=build.rejected,
        is_fixed=build.is_fixed,
    )
    return advise(facts, installed, unusable)


def _unlisted(
    nvidia_gpus: Sequence[NvidiaGpu], devices: Sequence[ComputeDevice], facts: HostFacts
) -> list[GpuFacts]:
    """Return the GPUs of the host that neither NVIDIA's library nor the engine lists."""
    listed = {normalise_address(gpu.pci_address) for gpu in nvidia_gpus}
    listed |= {normalise_address(device.device_id) for device in devices if device.device_id}
    # A device without an address may be any of them.
    is_unclear = any(device.kind in GPU_KINDS and not device.device_id for device in devices)
    return [gpu for gpu in facts.gpus if gpu.address not in listed and not (is_unclear and not gpu.hidden)]
