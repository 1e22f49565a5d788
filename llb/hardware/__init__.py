"""Hardware of this host: compute devices of the installed engine, GPUs, RAM, processors, utilisation."""

from llb.hardware.description import summarise_engine
from llb.hardware.device_query import DeviceQueryError, begin_device_query, query_devices
from llb.hardware.devices import ComputeDevice, HardwareInfo, MemoryBudget, usual_cards
from llb.hardware.engine_command import EngineBuild, engine_command, engine_environment, installed_version
from llb.hardware.host_facts import query_host_facts
from llb.hardware.limits import (
    cgroup_memory_limit_bytes,
    cpu_count,
    memory_total_bytes,
    physical_core_count,
)
from llb.hardware.probe import HardwareProbe

__all__ = [
    "ComputeDevice",
    "DeviceQueryError",
    "EngineBuild",
    "HardwareInfo",
    "HardwareProbe",
    "MemoryBudget",
    "begin_device_query",
    "cgroup_memory_limit_bytes",
    "cpu_count",
    "engine_command",
    "engine_environment",
    "installed_version",
    "memory_total_bytes",
    "physical_core_count",
    "query_devices",
    "query_host_facts",
    "summarise_engine",
    "usual_cards",
]
