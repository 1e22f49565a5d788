"""GPUs of a Linux host by its PCI devices, whether or not a driver works for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from llb.policy.engine_build.choice import GpuFacts

_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_VENDOR_NAMES = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
# VGA, XGA, 3D and other display controllers, and accelerators.
_GPU_CLASSES = re.compile(r"0x(0300|0301|0302|0380|1200)\d\d")
_PCI_IDS = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
# Processors with a GPU inside; ROCm's names say so, PCI does not.
_INTEGRATED_TARGETS = re.compile(r"gfx(90[29c]|1013|103[3-7]|1103|115\d)")
# A GPU of unknown target with less memory is integrated: firmware gives it less, as a rule.
_MIN_CARD_MEMORY_BYTES = 4 * 2**30
_HIDING_VARIABLES = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES"}


def list_pci_gpus(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Iterator[GpuFacts]:
    """Yield the GPUs of NVIDIA, AMD and Intel; those of servers' consoles compute nothing."""
    targets = _kfd_targets(root)
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = _VENDORS.get(_read(device / "vendor"))
        if vendor is None or not _GPU_CLASSES.fullmatch(_read(device / "class")):
            continue
        target = targets.get(device.name, "")
        memory = _read(device / "mem_info_vram_total")
        memory_bytes = int(memory) if memory.isdecimal() else 0
        yield GpuFacts(
            vendor=vendor,
            name=_name(root, device, vendor),
            address=device.name,
            memory_total_bytes=memory_bytes,
            integrated=_is_integrated(device, vendor, target, memory_bytes),
            hidden=environ.get(_HIDING_VARIABLES.get(vendor, "")) in ("", "-1") or _is_passed_on(device),
            target=target,
        )


def _is_integrated(device: Path, vendor: str, target: str, memory_bytes: int) -> bool:
    if vendor == "intel":
        # Integrated ones are part of the root complex.
        return device.name.startswith("0000:00:")
    if vendor == "amd":
        return (
            bool(_INTEGRATED_TARGETS.fullmatch(target)) if target else memory_bytes < _MIN_CARD_MEMORY_BYTES
        )
    return False


def _is_passed_on(device: Path) -> bool:
    """Return whether a virtual machine has the device."""
    return (device / "driver").exists() and (device / "driver").resolve().name == "vfio-pci"


def _kfd_targets(root: Path) -> dict[str, str]:
    """Return the names of AMD GPUs in ROCm, by PCI address, as the kernel's compute driver lists them."""
    targets: dict[str, str] = {}
    for properties in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        values = dict(re.findall(r"^(\w+) (\d+)$", _read(properties), re.MULTILINE))
        version, location = int(values.get("gfx_target_version", 0)), int(values.get("location_id", 0))
        if version:
            # 110501 is gfx1151; steppings from 10 on are letters.
            target = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
            bus, slot, function = location >> 8 & 0xFF, location >> 3 & 0x1F, location & 7
            targets[f"{int(values.get('domain', 0)):04x}:{bus:02x}:{slot:02x}.{function}"] = target
    return targets


def _name(root: Path, device: Path, vendor: str) -> str:
    """Return the name of a GPU from the list of PCI devices, if the system has that list, else its number."""
    vendor_id, device_id = (_read(device / name).removeprefix("0x") for name in ("vendor", "device"))
    for path in _PCI_IDS:
        section = re.search(rf"^{vendor_id} .*\n((?:[\t#].*\n)*)", _read(root / path) + "\n", re.MULTILINE)
        found = section and re.search(rf"^\t{device_id}  (.*)$", section[1], re.MULTILINE)
        if found:
            # "AD102 [GeForce RTX 4090]": the name of the chip, then that of the product.
            product = re.search(r"\[(.*)\]", found[1])
            return f"{_VENDOR_NAMES[vendor]} {product[1] if product else found[1]}"
    return f"{_VENDOR_NAMES[vendor]} GPU {device_id}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
