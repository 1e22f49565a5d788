"""`llb engine`: the builds of llama.cpp on this host. The choice is automatic, a download needs a yes."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import msgspec

from llb.base import platform_compat
from llb.cli import output
from llb.cli.errors import CommandError
from llb.cli.options import home_of
from llb.cli.tables import print_table
from llb.engine.builds.installation import BuildInstaller, BuildSource
from llb.engine.builds.overlays import OverlayState, OverlayStore, is_known, overlay_store
from llb.engine.builds.provisioning import provision_build
from llb.hardware import query_host_facts
from llb.hardware.engine_command import installed_version
from llb.policy.engine_build.advice import format_size
from llb.policy.engine_build.choice import CPU, GPU_BUILDS, choose_builds

# For installations without a terminal: the name of a build is a yes to its download, `cpu` a no to any.
CONSENT_VARIABLE = "LLB_ENGINE"
AUTOMATIC = "auto"


class _BuildRow(msgspec.Struct, kw_only=True):
    """Row of the list, and its JSON."""

    variant: str
    version: str
    state: str
    in_use: bool
    size_bytes: int | None = None
    devices: tuple[str, ...] = ()
    reason: str | None = None


def list_builds(options: argparse.Namespace) -> int:
    """`llb engine list`"""
    store = _store_of(options)
    selected = store.select()
    choice = choose_builds(asyncio.run(query_host_facts()))
    builds = [
        _BuildRow(variant=CPU, version=store.version, state="installed", in_use=selected.variant == CPU)
    ]
    builds += [
        _BuildRow(
            variant=overlay.variant,
            version=overlay.version,
            state=overlay.state.value,
            in_use=(overlay.variant, overlay.version) == (selected.variant, selected.version),
            size_bytes=overlay.size_bytes(),
            devices=overlay.devices,
            reason=overlay.reason,
        )
        for overlay in store.list_overlays()
    ]
    if options.json:
        chosen = store.chosen_variant() or AUTOMATIC
        found = {"builds": builds, "chosen": chosen, "suitable": choice.builds, "problem": choice.problem}
        output.print_json(found)
        return 0
    print_table(
        ("BUILD", "VERSION", "STATE", "SIZE", "USED", "DEVICES"),
        [
            (
                build.variant,
                build.version,
                build.state,
                output.format_size(build.size_bytes),
                "yes" if build.in_use else "",
                ", ".join(build.devices),
            )
            for build in builds
        ],
        right_aligned=(3,),
        flexible=5,
        droppable=(5,),
    )
    for build in builds:
        if build.reason is not None:
            output.print_line(f"{build.variant}: {build.reason}")
    output.print_line(f"For this host, best first: {', '.join(choice.builds)}.")
    if choice.problem is not None:
        output.print_line(choice.problem)
    return 0


def install_build(options: argparse.Namespace) -> int:
    """`llb engine install [VARIANT]`"""
    store = _store_of(options)
    consent = os.environ.get(CONSENT_VARIABLE, "").strip()
    for name in (consent, options.variant or ""):
        if name and not is_known(name):
            raise CommandError(f"'{name}' is not a build of llama.cpp: use one of {', '.join(GPU_BUILDS)}")
    if consent == CPU:
        output.print_line(f"{CONSENT_VARIABLE}={CPU}: llama.cpp stays on the CPU, nothing was installed.")
        return 0
    variant = options.variant or consent or None
    if variant == CPU:
        raise CommandError(f"'{CPU}' is installed with llb: llb engine use {CPU}")
    choice = choose_builds(asyncio.run(query_host_facts()))
    if choice.problem is not None:
        output.print_note(choice.problem)
    builds = choice.builds if variant is None else (variant,)
    if builds[0] == CPU:
        output.print_line("No other build is faster on this host: llama.cpp stays on the CPU.")
        return 0
    platform_compat.make_private_dir(store.directory.parent)
    platform_compat.make_private_dir(store.directory)
    lock = platform_compat.try_lock_file(store.directory / "lock")
    if lock is None:
        raise CommandError("another 'llb engine install' runs: wait for it")
    consents = _Consent(consent, assume_yes=options.yes)
    try:
        overlay = asyncio.run(
            provision_build(
                builds, store, BuildInstaller(store), accept=consents.accept, report=output.print_note
            )
        )
    finally:
        lock.close()
    if overlay is None:
        if consents.was_refused:
            return 1
        raise CommandError("llama.cpp stays on the CPU, see 'llb engine list'")
    output.print_line(
        f"llama.cpp {overlay.version.rpartition('.')[2]} computes with {overlay.variant} on "
        f"{', '.join(overlay.devices)}. A running llb changes to it as soon as no model is loaded."
    )
    return 0


def use_build(options: argparse.Namespace) -> int:
    """`llb engine use VARIANT`"""
    store = _store_of(options)
    variant: str = options.variant
    if variant not in (AUTOMATIC, CPU):
        overlay = store.find(variant) if is_known(variant) else None
        if overlay is None:
            raise CommandError(f"'{variant}' is not installed: llb engine install {variant}")
        if overlay.state is not OverlayState.VERIFIED:
            why = overlay.reason or "it was not tried yet"
            raise CommandError(f"'{variant}' cannot be used: {why}. Run: llb engine install {variant}")
    store.choose(None if variant == AUTOMATIC else variant)
    output.print_line(
        f"llama.cpp: {store.select().variant}. A running llb changes to it as soon as no model is loaded."
    )
    return 0


def _store_of(options: argparse.Namespace) -> OverlayStore:
    version = installed_version()
    if not version:
        raise CommandError("xllamacpp is missing: install llb again: ./install.sh run, or pip install llb")
    return overlay_store(home_of(options), version)


class _Consent:
    """Answer of the user about downloads whose files have no known hash; asked once."""

    def __init__(self, variant: str, *, assume_yes: bool) -> None:
        self._variant = variant
        self._answer: bool | None = True if assume_yes else None
        self.was_refused = False

    def accept(self, source: BuildSource) -> bool:
        size = format_size(source.download_bytes)
        what = f"{source.variant} {source.version}, about {size}, from {source.url}"
        if source.runtime_packages:
            what += f", with {' and '.join(source.runtime_packages)}"
        if source.lock is not None or self._variant == source.variant:
            output.print_note(f"{what}{'' if source.lock is None else ', checked by hash'}.")
            return True
        if self._answer is None:
            self._answer = self._ask(what, source.variant)
        self.was_refused = not self._answer
        return self._answer

    @staticmethod
    def _ask(what: str, variant: str) -> bool:
        output.print_note(f"llama.cpp for this GPU: {what}. The hashes of its files are not known to llb.")
        if not output.is_tty(sys.stdin):
            command = f"{CONSENT_VARIABLE}={variant} llb engine install"
            output.print_note(f"Nothing was installed. To install it: {command}")
            return False
        return output.confirm("Download and install it?", assume_yes=False)
