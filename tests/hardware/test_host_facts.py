"""Facts of a host: PCI devices, drivers and libraries below an invented root."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llb.hardware.host_facts import gather_host_facts, may_have_gpu
from tests.hardware.fakes import add_file, add_pci_device

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sysfs is Linux's")


def test_a_host_without_a_gpu_asks_no_driver(tmp_path: Path) -> None:
    add_pci_device(tmp_path, "0000:06:00.0", "1a03", "2000")
    assert not may_have_gpu(tmp_path, {})
    add_file(tmp_path, "dev/nvidiactl")
    assert may_have_gpu(tmp_path, {})


def test_a_gpu_without_a_driver_is_a_fact(root: Path) -> None:
    facts = gather_host_facts(root, {})
    assert [gpu.vendor for gpu in facts.gpus] == ["intel", "amd", "intel", "nvidia", "amd"]
    assert (facts.nvidia_driver, facts.cuda) == (None, None)
    assert may_have_gpu(root, {})


def test_versions_and_drivers(root: Path) -> None:
    add_file(root, "opt/rocm-6.4.1/.info/version", "6.4.1-83\n")
    add_file(root, "opt/rocm-7.2.4/.info/version", "7.2.4-17\n")
    for name in ("nvidia_icd", "radeon_icd.x86_64", "lvp_icd.x86_64", "intel_hasvk_icd.x86_64"):
        add_file(root, f"usr/share/vulkan/icd.d/{name}.json", json.dumps({}))
    facts = gather_host_facts(root, {})
    assert facts.rocm == (7, 2)
    assert facts.vulkan_vendors == ("amd", "intel", "nvidia")
    named = gather_host_facts(root, {"VK_DRIVER_FILES": "/x/radeon_icd.json:/x/lvp_icd.json"})
    assert named.vulkan_vendors == ("amd",)


def test_rocm_by_its_library(root: Path) -> None:
    add_file(root, "usr/lib/x86_64-linux-gnu/libamdhip64.so.7")
    assert gather_host_facts(root, {}).rocm == (7, 0)
