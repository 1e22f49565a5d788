"""Provisioning: install the best build for this host, and the next one if it does not work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from llb.engine.builds.installation import BuildInstaller, BuildSource, InstallFailed
from llb.engine.builds.overlays import Overlay, OverlayState, OverlayStore
from llb.engine.builds.verification import BuildRefused, verify_build
from llb.policy.engine_build.choice import CPU


async def provision_build(
    builds: Sequence[str],
    store: OverlayStore,
    installer: BuildInstaller,
    *,
    accept: Callable[[BuildSource], bool],
    report: Callable[[str], None],
) -> Overlay | None:
    """Return the first of `builds` that works on this host, None for the CPU; installs it if it is missing.

    `accept` is asked before a download, `report` gets a sentence for each step.
    """
    for variant in builds:
        if variant == CPU:
            break
        overlay = store.find(variant)
        if overlay is None:
            source = installer.source_of(variant)
            if not accept(source):
                break
            report(f"Installing {variant} {source.version} from {source.url}")
            try:
                overlay = await asyncio.to_thread(installer.install, source)
            except InstallFailed as error:
                report(f"{variant} could not be installed: {error}")
                continue
        if await verify_overlay(store, overlay, report):
            store.remove_others(overlay)
            return store.find(variant)
    return None


async def verify_overlay(store: OverlayStore, overlay: Overlay, report: Callable[[str], None]) -> bool:
    """Run an overlay that is not verified yet; returns whether it works, and keeps the result."""
    if overlay.state is OverlayState.VERIFIED:
        report(f"{overlay.variant} is installed and works on {', '.join(overlay.devices)}")
        return True
    report(f"Trying {overlay.variant}; the first start on a GPU may take minutes")
    try:
        devices = await verify_build(overlay.to_build())
    except BuildRefused as error:
        store.mark_refused(overlay, str(error))
        report(f"{overlay.variant} does not work here: {error}")
        return False
    store.mark_verified(overlay, devices)
    report(f"{overlay.variant} works on {', '.join(devices)}")
    return True
