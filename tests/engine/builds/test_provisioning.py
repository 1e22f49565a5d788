"""Builds from a package index to engines: install, verify, use; refused with a reason; back to the CPU."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.engine.builds.installation import BuildInstaller, BuildSource
from llb.engine.builds.overlays import OverlayState, OverlayStore
from llb.engine.builds.provisioning import provision_build, verify_overlay
from llb.engine.builds.selector import BuildSelector
from llb.hardware import EngineBuild, HardwareProbe
from llb.hardware.engine_command import installed_version
from llb.policy.engine_build.choice import CPU, CUDA_12, VULKAN, HostFacts
from tests.engine.builds import package_index
from tests.engine.builds.package_index import add_package, serve_index

VERSION = installed_version()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A package index: its directory, and its address."""
    root = tmp_path / "index"
    root.mkdir()
    with serve_index(root) as address:
        yield root, address


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "home" / "engines", VERSION)


def add_engine(root: Path, variant: str, source: str, version: str = VERSION) -> Path:
    return add_package(root, variant, "xllamacpp", version, {"xllamacpp/__init__.py": source})


def installer_of(store: OverlayStore, address: str, **more: Path) -> BuildInstaller:
    environ = {"PATH": "/usr/bin:/bin", "PIP_INDEX_URL": f"{address}/pypi", "PIP_NO_CACHE_DIR": "1"}
    return BuildInstaller(store, index_url=address, environ=environ, **more)


class Report:
    """Records questions and messages to the user; accepts downloads."""

    def __init__(self, *, answer: bool = True) -> None:
        self.asked: list[BuildSource] = []
        self.told: list[str] = []
        self._answer = answer

    def accept(self, source: BuildSource) -> bool:
        self.asked.append(source)
        return self._answer


async def provision(store: OverlayStore, address: str, *builds: str, report: Report) -> str:
    overlay = await provision_build(
        builds, store, installer_of(store, address), accept=report.accept, report=report.told.append
    )
    return CPU if overlay is None else overlay.variant


async def test_install_verify_use_and_back(index: tuple[Path, str], store: OverlayStore) -> None:
    root, address = index
    add_engine(root, VULKAN, package_index.WORKING)
    # Of another version, from an installation before the last upgrade.
    (store.directory / f"{VULKAN}-1.0").mkdir(parents=True)
    report = Report()
    assert await provision(store, address, VULKAN, CPU, report=report) == VULKAN
    assert [source.url for source in report.asked] == [f"{address}/{VULKAN}/"]
    overlay = store.find(VULKAN)
    assert overlay is not None
    assert (overlay.state, overlay.devices) == (OverlayState.VERIFIED, ("Pretended GPU",))
    assert [each.version for each in store.list_overlays()] == [VERSION]
    assert store.select() == EngineBuild(VULKAN, VERSION, overlay.directory)

    # Nothing is downloaded or tried again.
    again = Report()
    assert await provision(store, address, VULKAN, CPU, report=again) == VULKAN
    assert again.asked == []

    selector = BuildSelector(store)
    build = selector.find_other()
    assert build is not None
    selector.switch(build)
    assert selector.find_other() is None
    probe = HardwareProbe(get_build=selector.get_current, query_facts=no_gpu)
    try:
        info = await probe.probe()
    finally:
        probe.close()
    assert [device.kind for device in info.devices] == ["gpu", "cpu"]
    assert info.hardware.engine is not None
    assert (info.hardware.engine.build, info.hardware.engine.variant) == ("vulkan", VULKAN)

    shutil.rmtree(overlay.directory)
    build = selector.find_other()
    assert build == EngineBuild(version=VERSION)


async def no_gpu() -> HostFacts:
    return HostFacts(system="linux", machine="x86_64")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (package_index.NOT_IMPORTABLE, "ImportError: libcublas.so.12: cannot open shared object file"),
        (package_index.WITHOUT_GPU, "it finds no GPU"),
        (package_index.WRONG, "Pretended GPU computes other results than the CPU"),
        (package_index.ABORTING, "the engine crashed (SIGABRT): CUDA error: no kernel image is available"),
    ],
)
async def test_a_build_that_does_not_work_is_refused_with_its_reason(
    store: OverlayStore, source: str, reason: str
) -> None:
    directory = store.directory / f"{VULKAN}-{VERSION}"
    (directory / "xllamacpp").mkdir(parents=True)
    (directory / "xllamacpp" / "__init__.py").write_text(source)
    overlay = store.find(VULKAN)
    assert overlay is not None
    told: list[str] = []
    assert not await verify_overlay(store, overlay, told.append)
    refused = store.find(VULKAN)
    assert refused is not None
    assert (refused.state, refused.reason) == (OverlayState.REFUSED, reason)
    assert told[-1] == f"{VULKAN} does not work here: {reason}"
    assert store.select() == EngineBuild(version=VERSION, rejected=((VULKAN, reason),))


async def test_after_a_broken_build_comes_the_next_one(index: tuple[Path, str], store: OverlayStore) -> None:
    root, address = index
    add_engine(root, CUDA_12, package_index.NOT_IMPORTABLE)
    for name, version in (("nvidia-cuda-runtime-cu12", "12.8.90"), ("nvidia-cublas-cu12", "12.8.4.1")):
        module = name.split("-")[1]
        add_package(root, "pypi", name, version, {f"nvidia/{module}/lib/lib{module}.so.12": ""})
    add_engine(root, VULKAN, package_index.WORKING)
    report = Report()
    assert await provision(store, address, CUDA_12, VULKAN, CPU, report=report) == VULKAN
    refused = store.find(CUDA_12)
    assert refused is not None
    build = store.select()
    assert build.variant == VULKAN
    assert [variant for variant, _ in build.rejected] == [CUDA_12]
    if sys.platform.startswith("linux"):
        libraries = [path.relative_to(refused.directory) for path in refused.to_build().library_paths]
        assert libraries == [Path("nvidia/cublas/lib"), Path("nvidia/cuda/lib")]


async def test_a_build_that_cannot_be_had_leaves_nothing(
    index: tuple[Path, str], store: OverlayStore
) -> None:
    root, address = index
    # The index has another version only, which the planner's formulas do not know.
    add_engine(root, VULKAN, package_index.WORKING, version="1.0")
    report = Report()
    assert await provision(store, address, VULKAN, CPU, report=report) == CPU
    assert store.list_overlays() == []
    assert [*store.directory.iterdir()] == []
    assert len(report.told) == 2
    assert "could not be installed: ERROR: No matching distribution" in report.told[-1]


async def test_without_a_yes_nothing_is_downloaded(index: tuple[Path, str], store: OverlayStore) -> None:
    root, address = index
    add_engine(root, VULKAN, package_index.WORKING)
    report = Report(answer=False)
    assert await provision(store, address, VULKAN, CPU, report=report) == CPU
    assert not store.directory.exists()
