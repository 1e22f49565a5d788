"""NVIDIA's management library: GPUs that answer, means over them, and which device is which GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llb.hardware import ComputeDevice, nvml_library
from llb.hardware.nvml import GpuUtilisation, Nvml
from tests.hardware.fakes import GB, TWO_GPUS, FakeNvml, gpu


def test_a_host_without_the_library_has_no_gpu_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_library, "has_driver_library", lambda: False)
    opened = Nvml.open()
    assert (opened.gpus, opened.problems) == ((), ())
    assert opened.read_utilisation() == GpuUtilisation()
    opened.close()


def test_a_gpu_that_does_not_answer_is_left_out_and_told(nvml: Callable[..., FakeNvml]) -> None:
    nvml(TWO_GPUS).lost = {0}
    opened = Nvml.open()
    assert [(each.name, each.memory_free_bytes) for each in opened.gpus] == [("NVIDIA GTX 1060", 6 * GB)]
    assert opened.problems == ("GPU 0 does not answer: GPU is lost.",)


def test_a_driver_without_a_list_is_told(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: FakeNvml) -> int:
        raise FakeNvml.NVMLError("Unknown Error")

    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetCount", refuse)
    nvml(TWO_GPUS)
    assert Nvml.open().problems == ("The NVIDIA driver cannot list its GPUs: Unknown Error.",)


def test_a_gpu_that_falls_silent_leaves_the_means(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS)
    opened = Nvml.open()
    assert opened.read_utilisation() == GpuUtilisation(0.5, 6 / 30, (18 * GB, 6 * GB))
    fake.lost = {1}
    assert opened.read_utilisation() == GpuUtilisation(0.5, 6 / 24, (18 * GB, None))
    fake.lost = {0, 1}
    assert opened.read_utilisation() == GpuUtilisation(free_bytes=(None, None))


@pytest.mark.parametrize(
    ("device", "matches"),
    [
        # llama.cpp writes four digits of the domain, NVML eight.
        (gpu(device_id="0000:01:00.0"), True),
        (gpu(device_id="0000:02:00.0"), False),
        (gpu(device_id="0001:01:00.0"), False),
        # Two cards of one name differ in their addresses.
        (gpu("NVIDIA RTX 4090", device_id="0000:02:00.0"), False),
        (gpu("NVIDIA RTX 4090"), True),
        (gpu("NVIDIA RTX 3090"), False),
    ],
)
def test_a_device_is_known_by_its_address_or_else_by_its_name(
    nvml: Callable[..., FakeNvml], device: ComputeDevice, matches: bool
) -> None:
    nvml(TWO_GPUS)
    assert Nvml.open().gpus[0].is_usable_by([device]) is matches
