"""The whole matrix, as a table: `python -m tests.gpu [--wheel WHEEL] [ARCHITECTURE…]`.

With a wheel of xllamacpp with Vulkan the engine is llb's own. The exit status is 1 if a figure is off.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

from llb.hardware import EngineBuild
from llb.policy.engine_build.choice import VULKAN
from llb.policy.memory import MIB
from tests.gpu.llama_server import VulkanBuild, find_vulkan_driver, find_vulkan_server
from tests.gpu.matrix import ARCHITECTURES, cases, run_case, write_model
from tests.gpu.product import find_wheel


def main(arguments: list[str]) -> int:
    """Print one line for each case, and one for each figure that is off."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu")
    parser.add_argument("--wheel")
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE")
    options = parser.parse_args(arguments)
    chosen = [each for each in ARCHITECTURES if not options.names or each.name in options.names]
    figures = off = 0
    with tempfile.TemporaryDirectory() as folder:
        server = _unpack(options.wheel, Path(folder) / "build") if options.wheel else find_vulkan_server()
        if isinstance(server, str):
            raise SystemExit(server)
        for architecture in chosen:
            model = write_model(architecture, Path(folder))
            for case in cases([architecture]):
                comparisons = run_case(case, model, server)
                figures += len(comparisons)
                places = dict.fromkeys(comparison.place for comparison in comparisons)
                sizes = []
                for place in places:
                    pairs = [
                        f"{c.planned_bytes / MIB:.2f}/{c.reported_bytes / MIB:.2f}"
                        for c in comparisons
                        if c.place == place
                    ]
                    sizes.append(f"{place} {' '.join(pairs)}")
                print(f"{case.name}: {'; '.join(sizes)}", flush=True)
                for comparison in comparisons:
                    if not comparison.is_within_tolerance:
                        off += 1
                        print(f"  OFF {comparison}", flush=True)
    print(f"{figures - off} of {figures} figures within their tolerance.")
    return 1 if off else 0


def _unpack(name: str, folder: Path) -> VulkanBuild | str:
    """Return the build of a wheel, unpacked into `folder`; or what is missing, as a sentence."""
    wheel, driver = find_wheel(name), find_vulkan_driver()
    if isinstance(wheel, str):
        return wheel
    if isinstance(driver, str):
        return driver
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return VulkanBuild(EngineBuild(VULKAN, import_path=folder), driver)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
