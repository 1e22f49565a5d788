"""Fixtures: an NVML without a driver, a host with PCI devices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llb.hardware import (
    nvml_library,
)
from tests.hardware.fakes import FakeNvml, add_file, add_pci_device


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def install(*arguments: Any, **more: Any) -> FakeNvml:
        fake = FakeNvml(*arguments, **more)
        monkeypatch.setattr(nvml_library, "has_driver_library", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with one of each, and devices that are no GPUs."""
    add_pci_device(tmp_path, "0000:00:02.0", "8086", "a780")
    add_pci_device(tmp_path, "0000:03:00.0", "1002", "744c", mem_info_vram_total=str(24 * 2**30))
    add_pci_device(tmp_path, "0000:04:00.0", "8086", "56a0")
    add_pci_device(tmp_path, "0000:05:00.0", "10de", "2684", "030200")
    add_pci_device(tmp_path, "0000:05:00.1", "10de", "22ba", "040300")  # its sound
    add_pci_device(tmp_path, "0000:06:00.0", "1a03", "2000")  # the console of a server
    add_pci_device(tmp_path, "0000:07:00.0", "1002", "164e", mem_info_vram_total=str(2**29))
    node = "sys/class/kfd/kfd/topology/nodes"
    add_file(tmp_path, f"{node}/0/properties", "cpu_cores_count 16\ngfx_target_version 0\n")
    add_file(tmp_path, f"{node}/1/properties", "gfx_target_version 110000\nlocation_id 768\ndomain 0\n")
    add_file(tmp_path, f"{node}/2/properties", "gfx_target_version 100306\nlocation_id 1792\ndomain 0\n")
    add_file(
        tmp_path,
        "usr/share/misc/pci.ids",
        "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\t744c  Navi 31 [Radeon RX 7900 XTX]\n"
        "\t\t1002 0e3b  Of a vendor\n8086  Intel Corporation\n\t56a0  DG2 [Arc A770]\n",
    )
    return tmp_path
