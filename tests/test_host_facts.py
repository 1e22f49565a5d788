"""Facts of a host: PCI devices, drivers and libraries below an invented root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from llb.hardware.engine_command import engine_environment
from llb.hardware.host_facts import gather_host_facts, may_have_gpu
from llb.policy.engine_build.choice import GpuFacts, HostFacts

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sysfs is Linux's")


def add_pci_device(
    root: Path, address: str, vendor: str, device: str, kind: str = "030000", **files: str
) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in {
        "vendor": f"0x{vendor}",
        "device": f"0x{device}",
        "class": f"0x{kind}",
        **files,
    }.items():
        (folder / name).write_text(f"{text}\n")


def add_file(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


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


def test_gpus_by_their_pci_devices(root: Path) -> None:
    facts = gather_host_facts(root, {})
    assert [(gpu.address, gpu.vendor, gpu.name, gpu.integrated) for gpu in facts.gpus] == [
        ("0000:00:02.0", "intel", "Intel GPU a780", True),
        ("0000:03:00.0", "amd", "AMD Radeon RX 7900 XTX", False),
        ("0000:04:00.0", "intel", "Intel Arc A770", False),
        ("0000:05:00.0", "nvidia", "NVIDIA GPU 2684", False),
        ("0000:07:00.0", "amd", "AMD GPU 164e", True),
    ]
    assert [gpu.target for gpu in facts.gpus if gpu.vendor == "amd"] == ["gfx1100", "gfx1036"]
    assert facts.gpus[1].memory_total_bytes == 24 * 2**30
    assert not [gpu for gpu in facts.gpus if gpu.hidden]
    assert (facts.nvidia_driver, facts.cuda) == (None, None)
    assert may_have_gpu(root, {})


def test_a_host_without_a_gpu_asks_no_driver(tmp_path: Path) -> None:
    add_pci_device(tmp_path, "0000:06:00.0", "1a03", "2000")
    assert not may_have_gpu(tmp_path, {})
    add_file(tmp_path, "dev/nvidiactl")
    assert may_have_gpu(tmp_path, {})


@pytest.mark.parametrize(
    ("environ", "hidden"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, {"nvidia"}),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, {"nvidia"}),
        ({"ROCR_VISIBLE_DEVICES": "-1"}, {"amd"}),
        ({"CUDA_VISIBLE_DEVICES": "0"}, set()),
    ],
)
def test_hidden_gpus(root: Path, environ: dict[str, str], hidden: set[str]) -> None:
    assert {gpu.vendor for gpu in gather_host_facts(root, environ).gpus if gpu.hidden} == hidden


def test_a_gpu_of_a_virtual_machine_is_hidden(root: Path) -> None:
    (root / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    (root / "sys/bus/pci/devices/0000:04:00.0/driver").symlink_to(root / "sys/bus/pci/drivers/vfio-pci")
    assert [gpu.address for gpu in gather_host_facts(root, {}).gpus if gpu.hidden] == ["0000:04:00.0"]


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


# A driver with two GPUs, of which the second is integrated.
_LIBCUDA = r"""
#include <stdio.h>
#include <stdlib.h>
int cuInit(unsigned flags) { return getenv("CUDA_FAILS") ? atoi(getenv("CUDA_FAILS")) : 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake %d", device); return 0; }
int cuDeviceGetPCIBusId(char *id, int size, int device) {
  snprintf(id, size, "0000:0%d:00.0", device + 1);
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ul << 34; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 18 ? device : attribute == 75 ? 12 - 4 * device : 1 + device;
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("failure", ["0", "100", "999"])
def test_what_cuda_says(tmp_path: Path, failure: str) -> None:
    (tmp_path / "cuda.c").write_text(_LIBCUDA)
    library = tmp_path / "libcuda.so.1"
    compiler = shutil.which("cc")
    assert compiler is not None
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    environment = engine_environment(os.environ) | {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_FAILS": failure}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llb.hardware.host_facts"],
        env=environment,
        capture_output=True,
        check=True,
    )
    facts = msgspec.json.decode(done.stdout, type=HostFacts)
    # 100: all GPUs are hidden. 999: the driver does not work.
    assert facts.cuda == (None if failure == "999" else (13, 0))
    if failure == "0":
        assert facts.gpus[:2] == tuple(
            GpuFacts(
                vendor="nvidia",
                name=f"Fake {number}",
                address=f"0000:0{number + 1}:00.0",
                memory_total_bytes=2**34,
                integrated=bool(number),
                capability=(12 - 4 * number, 1 + number),
            )
            for number in range(2)
        )
