"""What lies on disk: `models/<model id>/<file>`, partials beside them, and nothing outside that directory.

A finished file is never written into. It may therefore be a hard link to a file that somebody else keeps (`adopt`):
nothing done here alters or removes theirs, and if they change it in place the fingerprint shows it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llb import portable
from llb.wire import FileSpec

READ_BYTES = 1 << 20
MAX_NAME_BYTES = 200  # leaves room for the suffix of a partial in the 255 that file systems allow
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_OURS = re.compile(r"(?P<name>.+)\.[0-9a-f]{16}\.(partial|adopting)")


class UnsafeName(ValueError):
    """A name that could leave its directory, or that some system cannot write."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Enough to tell that a file which was verified once has not been touched since."""

    size_bytes: int
    mtime_ns: int


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class PartialFile:
    """An unfinished download on disk; `age_s` since the last byte."""

    model_id: str
    path: Path
    size_bytes: int
    age_s: float


def safe_name(name: str) -> str:
    """`name`, if it is one harmless path component on every system; raises `UnsafeName`."""
    if (
        not 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        or _FORBIDDEN.search(name)
        or name.startswith((" ", ".."))
        or name.endswith((" ", "."))
        or _RESERVED.fullmatch(name)
        or _OURS.fullmatch(name)
    ):
        raise UnsafeName(f"{name!r} cannot be the name of a model file")
    return name


def partial_name(spec: FileSpec) -> str:
    """The name of `spec`'s partial. It carries the content's hash, so bytes of another version are never continued."""
    return _temporary_name(spec.name, spec.sha256, "partial")


def _temporary_name(filename: str, sha256: str, suffix: str) -> str:
    return f"{safe_name(filename)}.{sha256[:16]}.{suffix}"


def sha256_of(
    path: Path, cancelled: threading.Event | None = None, progress: Callable[[int], None] | None = None
) -> str | None:
    """The sha256 (lower hex) of a file, None once `cancelled`; `progress` hears the bytes read so far. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    done = 0
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            if cancelled is not None and cancelled.is_set():
                return None
            digest.update(buffer[:size])
            done += size
            if progress is not None:
                progress(done)
    return digest.hexdigest()


class ModelFiles:
    """The models directory. Blocking; every method raises OSError as the disk does."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def directory(self, model_id: str) -> Path:
        return self.models_dir / safe_name(model_id)

    def path(self, model_id: str, filename: str) -> Path:
        return self.directory(model_id) / safe_name(filename)

    def partial_path(self, model_id: str, spec: FileSpec) -> Path:
        return self.directory(model_id) / partial_name(spec)

    def fingerprint(self, model_id: str, filename: str) -> Fingerprint | None:
        """Size and time of change of a finished file; None if there is none."""
        path = self.path(model_id, filename)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return fingerprint_of(status) if stat.S_ISREG(status.st_mode) else None

    def present(self, model_id: str, spec: FileSpec) -> bool:
        """Whether the finished file is there, with its right size."""
        found = self.fingerprint(model_id, spec.name)
        return found is not None and found.size_bytes == spec.size_bytes

    def free_bytes(self) -> int:
        """Bytes the disk of the models directory still takes."""
        return portable.free_disk_bytes(self.models_dir)

    # --- adopting ------------------------------------------------------------------------------------

    def adopt(
        self, model_id: str, source: Path, spec: FileSpec, cancelled: threading.Event | None = None
    ) -> bool:
        """Put the file `source` in place as `spec` without fetching it: a hard link, else a clone, else a copy.

        False if it is not that file (by size and sha256), or once `cancelled`. `source` stays as it is.
        """
        source = source.resolve(strict=True)  # the Hugging Face cache shows its files as symbolic links
        if not source.is_file() or source.stat().st_size != spec.size_bytes:
            return False
        target = self.path(model_id, spec.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not under the name of a partial: that name means that a download may go on with it.
        temporary = target.parent / _temporary_name(spec.name, spec.sha256, "adopting")
        temporary.unlink(missing_ok=True)
        try:
            if not self._link_or_copy(source, temporary, cancelled):
                return False
            if sha256_of(temporary, cancelled) != spec.sha256:
                return False
            portable.replace_durably(temporary, target)
        finally:
            # A rename between two links of one file does nothing, so the name may remain even after success.
            temporary.unlink(missing_ok=True)
        self.partial_path(model_id, spec).unlink(missing_ok=True)
        return True

    @staticmethod
    def _link_or_copy(source: Path, target: Path, cancelled: threading.Event | None) -> bool:
        with suppress(OSError):  # another file system, one without links, or a source we do not own
            target.hardlink_to(source)
            return True
        if portable.clone_file(source, target):
            return True
        with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
            offset = 0
            while piece := reader.read(READ_BYTES):
                if cancelled is not None and cancelled.is_set():
                    return False
                portable.pwrite(writer.fileno(), piece, offset)
                offset += len(piece)
            os.fsync(writer.fileno())
        return True

    # --- removing ------------------------------------------------------------------------------------

    def remove(self, model_id: str, filenames: Sequence[str]) -> None:
        """Remove these files of a model and their partials, then its directory if nothing else is in it.

        Call it in a thread: unlinking gigabytes takes long enough to be noticed.
        """
        directory = self.directory(model_id)
        names = {safe_name(name) for name in filenames}
        if directory.is_symlink():
            # What it points at is somebody's choice outside; only the pointer is ours.
            directory.unlink()
            return
        for path in _entries(directory):
            match = _OURS.fullmatch(path.name)
            if path.name in names or (match is not None and match["name"] in names):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            directory.rmdir()

    # --- unfinished downloads ------------------------------------------------------------------------

    def partials(self) -> list[PartialFile]:
        """Unfinished downloads, the oldest first."""
        now = time.time()
        found = []
        for directory in _entries(self.models_dir):
            if directory.is_symlink():
                continue
            for path in _entries(directory):
                if _OURS.fullmatch(path.name) is None:
                    continue
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    age_s = max(0.0, now - status.st_mtime)
                    found.append(PartialFile(directory.name, path, status.st_size, age_s))
        return sorted(found, key=lambda partial: -partial.age_s)

    def retire(self, model_id: str, filename: str, sha256: str) -> None:
        """Make a finished file a partial again: its model was cancelled before all its files were there."""
        path = self.path(model_id, filename)
        if not path.is_file():
            return
        if path.stat().st_nlink > 1:
            # A link to somebody's file: a download must not write into theirs, and adopting it anew costs nothing.
            path.unlink()
            return
        partial = path.parent / _temporary_name(filename, sha256, "partial")
        portable.replace_durably(path, partial)
        os.utime(partial)  # its age counts from now

    def sweep_partials(self, older_than_s: float, keep: Collection[str]) -> int:
        """Remove partials older than this but those of the models in `keep`; returns the bytes freed."""
        return sum(
            self._drop(partial)
            for partial in self.partials()
            if partial.age_s > older_than_s and partial.model_id not in keep
        )

    def make_room(self, needed_bytes: int, keep: Collection[str]) -> int:
        """Remove partials, the oldest first and none of the models in `keep`, until `needed_bytes` are free.

        Returns the bytes freed, which may be too few.
        """
        freed = 0
        for partial in self.partials():
            if self.free_bytes() >= needed_bytes:
                break
            if partial.model_id not in keep:
                freed += self._drop(partial)
        return freed

    @staticmethod
    def _drop(partial: PartialFile) -> int:
        partial.path.unlink(missing_ok=True)
        with suppress(OSError):
            partial.path.parent.rmdir()
        return partial.size_bytes

    def disk_used_bytes(self) -> int:
        """Bytes of all models and partials."""
        used = 0
        for directory in _entries(self.models_dir):
            for path in _entries(directory):
                with suppress(FileNotFoundError):
                    used += path.lstat().st_size
        return used


def _entries(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
