"""The product with a Vulkan build of llama.cpp, where LLB_VULKAN_WHEEL names one."""

from __future__ import annotations

import pytest

from tests.gpu.llama_server import VulkanDriver, find_vulkan_driver
from tests.gpu.product import DEVICE_COUNTS, find_wheel, run_product


@pytest.mark.timeout(400)
@pytest.mark.parametrize("devices", DEVICE_COUNTS)
def test_every_step_from_the_installation_to_the_removal(devices: int) -> None:
    wheel, driver = find_wheel(None), find_vulkan_driver()
    if isinstance(wheel, str):
        pytest.skip(wheel)
    if not isinstance(driver, VulkanDriver):
        pytest.skip(driver)
    run_product(wheel, print, [devices])
