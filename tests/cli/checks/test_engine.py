"""Checks of the engine: one command for each problem that a command fixes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.cli.checks import Finding, Level
from llb.cli.checks.engine import check_engine
from llb.config import make_config
from llb.engine.builds.overlays import OverlayStore
from llb.hardware import ComputeDevice, HardwareInfo, HardwareProbe, installed_version
from llb.wire import Gpu, Hardware

CPU = ComputeDevice(
    name="CPU", description="A Processor", kind="cpu", memory_total_bytes=10**9, memory_free_bytes=10**9
)
PROBLEM = "A GPU is present (RTX), but llama.cpp runs on the CPU: run 'llb engine install' (about 1.1 GB)."


def findings(
    monkeypatch: pytest.MonkeyPatch, home: Path, devices: tuple[ComputeDevice, ...], *problems: str
) -> list[Finding]:
    gpus = (
        Gpu(name="RTX 4090", memory_total_bytes=24, memory_free_bytes=24, usable=False),
        Gpu(name="RTX 3060", memory_total_bytes=12, memory_free_bytes=12, usable=False, hidden=True),
    )
    hardware = Hardware(cpu="x", cpu_count=1, memory_total_bytes=10**9, gpus=gpus)

    async def probe(_self: HardwareProbe) -> HardwareInfo:
        return HardwareInfo(hardware, devices, problems)

    monkeypatch.setattr(HardwareProbe, "probe", probe)
    return [*check_engine(make_config(home=home), ())]


def test_a_gpu_without_its_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [engine, problem, usable, hidden, *_] = findings(monkeypatch, tmp_path, (CPU,), PROBLEM)
    assert engine.detail == f"llama.cpp {installed_version()}, build cpu, computes on A Processor (cpu)"
    assert problem == Finding(Level.WARN, "engine", PROBLEM, "llb engine install")
    assert usable.detail.endswith("; not usable by this engine")
    assert hidden.detail.endswith("; hidden from programs")


def test_a_refused_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OverlayStore(tmp_path / "engines", installed_version())
    with store.new_directory("cu128"):
        pass
    overlay = store.find("cu128")
    assert overlay is not None
    store.mark_refused(overlay, "libcublas.so.12:\n cannot open")
    refused = findings(monkeypatch, tmp_path, (CPU,))[1]
    assert refused.detail == "build cu128 does not work: libcublas.so.12: cannot open"
    assert refused.remedy == f"fix that, then llb engine install cu128; or delete {overlay.directory}"


def test_an_engine_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = findings(monkeypatch, tmp_path, ())[0]
    assert (installed.level, installed.remedy) == (
        Level.BAD, "install the engine again: pip install --force-reinstall xllamacpp"
    )  # fmt: skip
    store = OverlayStore(tmp_path / "engines", installed_version())
    with store.new_directory("cu128"):
        pass
    overlay = store.find("cu128")
    assert overlay is not None
    store.mark_verified(overlay, ("RTX 4090",))
    broken = findings(monkeypatch, tmp_path, ())[0]
    assert broken.detail == "llama.cpp does not start (build cu128)"
    assert broken.remedy == "llb engine use cpu, then llb engine install cu128"
