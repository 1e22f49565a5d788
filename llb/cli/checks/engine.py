"""Checks of the engine: its build, its devices, and the memory for models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from llb.cli import output
from llb.cli.checks import Finding, Level, bad, ok, warn
from llb.config import Config
from llb.engine.builds.overlays import Overlay, OverlayState, overlay_store
from llb.hardware import HardwareProbe, installed_version
from llb.policy.engine_build.advice import INSTALL_COMMAND
from llb.policy.engine_build.choice import CPU
from llb.wire import Model


def check_engine(config: Config, models: tuple[Model, ...]) -> Iterator[Finding]:
    """Check the devices of llama.cpp and the memory, compared with the models of the catalogue."""

    store = overlay_store(config.home, installed_version())
    build = store.select()

    async def probe() -> Iterator[Finding]:
        hardware_probe = HardwareProbe(get_build=lambda: build)
        try:
            info = await hardware_probe.probe()
        finally:
            hardware_probe.close()
        found: list[Finding] = []
        names = [f"{device.description or device.name} ({device.kind})" for device in info.devices]
        if not info.devices:
            remedy = (
                "install the engine again: pip install --force-reinstall xllamacpp"
                if build.import_path is None
                else f"llb engine use {CPU}, then {INSTALL_COMMAND} {build.variant}"
            )
            found.append(bad("engine", f"llama.cpp does not start (build {build.variant})", remedy))
        else:
            what = f"llama.cpp {build.version}, build {build.variant}, computes on {', '.join(names)}"
            found.append(ok("engine", what))
        found += [_describe_problem(problem) for problem in info.problems]
        found += [
            warn("engine", f"build {overlay.variant} does not work: {overlay.reason}", _remedy_of(overlay))
            for overlay in store.list_overlays()
            if overlay.state is OverlayState.REFUSED
        ]
        hardware = info.hardware
        for gpu in hardware.gpus:
            free, total = (
                output.format_size(size_bytes)
                for size_bytes in (gpu.memory_free_bytes, gpu.memory_total_bytes)
            )
            detail = f"{gpu.name}, {free} of {total} free"
            hidden = "; hidden from programs" if gpu.hidden else "; not usable by this engine"
            suffix = "" if gpu.usable else hidden
            found.append(ok("gpu", f"{detail}{suffix}"))
        if not hardware.gpus:
            found.append(ok("gpu", "none: models run on the CPU"))
        budget = info.memory_budget(config.memory_limit_bytes).total_bytes
        fitting = [model for model in models if model.required_memory_bytes <= budget]
        detail = (
            f"{output.format_size(hardware.memory_total_bytes)} RAM, {hardware.cpu_count} CPUs; "
            f"{output.format_size(budget)} for models"
        )
        if not models:
            found.append(ok("memory", detail))
        elif fitting:
            largest = max(fitting, key=lambda model: model.required_memory_bytes)
            found.append(
                ok("memory", f"{detail}: {len(fitting)} of {len(models)} fit, the largest is {largest.id}")
            )
        else:
            smallest = min(models, key=lambda model: model.required_memory_bytes)
            found.append(
                bad(
                    "memory",
                    f"{detail}: no model fits",
                    f"the smallest, {smallest.id}, needs "
                    f"{output.format_size(smallest.required_memory_bytes)}: "
                    "raise --memory-limit, or use a host with more memory",
                )
            )
        return iter(found)

    yield from asyncio.run(probe())


def _describe_problem(problem: str) -> Finding:
    """Finding for a problem, with the command that fixes it if there is one; else the text has its remedy."""
    if INSTALL_COMMAND in problem:
        return warn("engine", str(problem), INSTALL_COMMAND)
    return Finding(Level.WARN, "engine", str(problem))


def _remedy_of(refused: Overlay) -> str:
    return f"fix that, then {INSTALL_COMMAND} {refused.variant}; or delete {refused.directory}"
