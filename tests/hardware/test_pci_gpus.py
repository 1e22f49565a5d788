"""GPUs among the PCI devices of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.hardware.pci_gpus import list_pci_gpus


def test_gpus_by_their_pci_devices(root: Path) -> None:
    gpus = [*list_pci_gpus(root, {})]
    assert [(gpu.address, gpu.vendor, gpu.name, gpu.integrated) for gpu in gpus] == [
        ("0000:00:02.0", "intel", "Intel GPU a780", True),
        ("0000:03:00.0", "amd", "AMD Radeon RX 7900 XTX", False),
        ("0000:04:00.0", "intel", "Intel Arc A770", False),
        ("0000:05:00.0", "nvidia", "NVIDIA GPU 2684", False),
        ("0000:07:00.0", "amd", "AMD GPU 164e", True),
    ]
    assert [gpu.target for gpu in gpus if gpu.vendor == "amd"] == ["gfx1100", "gfx1036"]
    assert gpus[1].memory_total_bytes == 24 * 2**30
    assert not [gpu for gpu in gpus if gpu.hidden]


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
    assert {gpu.vendor for gpu in list_pci_gpus(root, environ) if gpu.hidden} == hidden


def test_a_gpu_of_a_virtual_machine_is_hidden(root: Path) -> None:
    (root / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    (root / "sys/bus/pci/devices/0000:04:00.0/driver").symlink_to(root / "sys/bus/pci/drivers/vfio-pci")
    assert [gpu.address for gpu in list_pci_gpus(root, {}) if gpu.hidden] == ["0000:04:00.0"]
