"""Hardware of this host: compute devices of the installed engine, GPUs, RAM, processors, utilisation."""

from llb.hardware.devices import ComputeDevice, HardwareInfo, MemoryBudget
from llb.hardware.engine_command import EngineBuild, engine_command, engine_environment
from llb.hardware.limits import (
    cgroup_memory_limit_bytes,
    cpu_count,
    memory_total_bytes,
    physical_core_count,
)
from llb.hardware.probe import HardwareProbe

__all__ = [
    "ComputeDevice",
    "EngineBuild",
    "HardwareInfo",
    "HardwareProbe",
    "MemoryBudget",
    "cgroup_memory_limit_bytes",
    "cpu_count",
    "engine_command",
    "engine_environment",
    "memory_total_bytes",
    "physical_core_count",
]
