"""Builds of llama.cpp in addition to the installed one, each in one directory.

`engines/<variant>-<version>/` in the data directory holds the packages, and a marker file once the build was
run on this host: `VERIFIED`, with the names of its devices, or `REFUSED`, with the reason. Only a verified
build of the version that is installed is used. To go back, delete the directory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from llb.base import platform_compat
from llb.hardware import EngineBuild
from llb.policy.engine_build.choice import CPU, GPU_BUILDS

VERIFIED_NAME, REFUSED_NAME, USE_NAME = "VERIFIED", "REFUSED", "use"
# Prefix of an installation in progress; one that was killed leaves such a directory behind.
_TEMPORARY_PREFIX = ".installing-"
MAX_REASON_CHARS = 300


class OverlayState(StrEnum):
    """State of an overlay. OUTDATED: of another version than the installed package."""

    VERIFIED = "verified"
    REFUSED = "refused"
    UNVERIFIED = "unverified"
    OUTDATED = "outdated"


class Overlay(Struct, frozen=True):
    """Build in a directory of its own.

    `reason` says why it is refused; `devices` are those it computes on."""

    directory: Path
    variant: str
    version: str
    state: OverlayState
    reason: str | None = None
    devices: tuple[str, ...] = ()

    def size_bytes(self) -> int:
        """Return the disk space that it occupies; blocking."""
        files = (path for path in self.directory.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files)

    def to_build(self) -> EngineBuild:
        """Return the build for the processes that run it."""
        # `libcudart` and `libcublas`, which the wheels of CUDA for Linux do not bring.
        libraries = tuple(sorted(self.directory.glob("nvidia/*/lib")))
        return EngineBuild(self.variant, self.version, self.directory, libraries)


class OverlayStore:
    """Overlays of one data directory. All methods block for a moment; the directory need not exist."""

    def __init__(self, directory: Path, version: str) -> None:
        """`version` is that of the installed package."""
        self.directory = directory
        self.version = version

    def list_overlays(self) -> list[Overlay]:
        """Return all overlays, fastest first, then by version."""
        found: list[Overlay] = []
        with suppress(OSError):
            for directory in sorted(self.directory.iterdir()):
                variant, _, version = directory.name.rpartition("-")
                if variant in GPU_BUILDS and directory.is_dir():
                    found.append(self._read(directory, variant, version))
        return sorted(found, key=lambda overlay: GPU_BUILDS.index(overlay.variant))

    def find(self, variant: str) -> Overlay | None:
        """Return the overlay of the installed version."""
        directory = self._directory_of(variant)
        return self._read(directory, variant, self.version) if directory.is_dir() else None

    def select(self) -> EngineBuild:
        """Return the build to use: the one that the user chose, else the fastest that was verified."""
        overlays = [overlay for overlay in self.list_overlays() if overlay.version == self.version]
        verified = [overlay for overlay in overlays if overlay.state is OverlayState.VERIFIED]
        rejected = tuple(
            (overlay.variant, overlay.reason or "it does not work")
            for overlay in overlays
            if overlay.state is OverlayState.REFUSED
        )
        chosen = self.chosen_variant()
        if chosen is not None:
            verified = [overlay for overlay in verified if overlay.variant == chosen]
        build = verified[0].to_build() if verified else EngineBuild(version=self.version)
        is_fixed = chosen == build.variant
        return EngineBuild(
            build.variant, build.version, build.import_path, build.library_paths, rejected, is_fixed
        )

    @contextmanager
    def new_directory(self, variant: str) -> Iterator[Path]:
        """Yield an empty directory; without an exception it becomes the overlay of this variant.

        Raises OSError.
        """
        platform_compat.make_private_dir(self.directory)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY_PREFIX}{variant}-", dir=self.directory))
        try:
            yield temporary
            final = self._directory_of(variant)
            if final.exists():
                # Engines that run keep their files; a new one sees the new directory or the installed build.
                final.rename(temporary.with_name(f"{temporary.name}-old"))
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(temporary.with_name(f"{temporary.name}-old"), ignore_errors=True)

    def mark_verified(self, overlay: Overlay, devices: tuple[str, ...]) -> None:
        """Allow using an overlay. Raises OSError."""
        (overlay.directory / REFUSED_NAME).unlink(missing_ok=True)
        _write(overlay.directory / VERIFIED_NAME, "\n".join(devices))

    def mark_refused(self, overlay: Overlay, reason: str) -> None:
        """Keep an overlay from being used, for a reason in one line. Raises OSError."""
        (overlay.directory / VERIFIED_NAME).unlink(missing_ok=True)
        _write(overlay.directory / REFUSED_NAME, " ".join(reason.split())[:MAX_REASON_CHARS])

    def remove_others(self, kept: Overlay) -> None:
        """Remove the overlays of other versions, and what installations that were killed left behind."""
        for overlay in self.list_overlays():
            if overlay.version != kept.version:
                shutil.rmtree(overlay.directory, ignore_errors=True)
        for directory in self.directory.glob(f"{_TEMPORARY_PREFIX}*"):
            shutil.rmtree(directory, ignore_errors=True)

    def chosen_variant(self) -> str | None:
        """Return the variant of 'llb engine use', None for the automatic choice."""
        try:
            return (self.directory / USE_NAME).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def choose(self, variant: str | None) -> None:
        """Use this variant, or with None the best one again. Raises OSError."""
        if variant is None:
            (self.directory / USE_NAME).unlink(missing_ok=True)
            return
        platform_compat.make_private_dir(self.directory)
        _write(self.directory / USE_NAME, variant)

    def _directory_of(self, variant: str) -> Path:
        return self.directory / f"{variant}-{self.version}"

    def _read(self, directory: Path, variant: str, version: str) -> Overlay:
        reason = _read_marker(directory / REFUSED_NAME)
        verified = _read_marker(directory / VERIFIED_NAME)
        if version != self.version:
            state = OverlayState.OUTDATED
        elif reason is not None:
            state = OverlayState.REFUSED
        else:
            state = OverlayState.UNVERIFIED if verified is None else OverlayState.VERIFIED
        return Overlay(directory, variant, version, state, reason, tuple((verified or "").splitlines()))


def overlay_store(home: Path, version: str) -> OverlayStore:
    """Return the overlays of a data directory."""
    return OverlayStore(home / "engines", version)


def is_known(variant: str) -> bool:
    """Return whether there is a build of this name."""
    return variant in (*GPU_BUILDS, CPU)


def _read_marker(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(f"{text}\n", encoding="utf-8")
    temporary.replace(path)
