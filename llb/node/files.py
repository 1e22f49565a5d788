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

from llb.base import platform_compat
from llb.wire import FileSpec

READ_CHUNK_BYTES = 1 << 20
MAX_FILE_NAME_BYTES = 200  # leaves room for the suffix of a partial in the 255 that file systems allow
_FORBIDDEN_CHARS = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')
_RESERVED_NAMES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_TEMPORARY_NAME_PATTERN = re.compile(r"(?P<name>.+)\.[0-9a-f]{16}\.(partial|adopting)")


class UnsafeFileName(ValueError):
    """A name that could leave its directory, or that some system cannot write."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Enough to tell that a file which was verified once has not been touched since."""

    size_bytes: int
    mtime_ns: int


def file_stamp_of(status: os.stat_result) -> FileStamp:
    return FileStamp(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class PartialFileInfo:
    """An unfinished download on disk; `age_s` since the last byte."""

    model_id: str
    path: Path
    size_bytes: int
    age_s: float


def validate_file_name(name: str) -> str:
    """`name`, if it is one harmless path component on every system; raises `UnsafeName`."""
    if (
        not 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_FILE_NAME_BYTES
        or _FORBIDDEN_CHARS.search(name)
        or name.startswith((" ", ".."))
        or name.endswith((" ", "."))
        or _RESERVED_NAMES.fullmatch(name)
        or _TEMPORARY_NAME_PATTERN.fullmatch(name)
    ):
        raise UnsafeFileName(f"{name!r} cannot be the name of a model file")
    return name


def partial_file_name(spec: FileSpec) -> str:
    """The name of `spec`'s partial. It carries the content's hash, so bytes of another version are never continued."""
    return _temporary_file_name(spec.name, spec.sha256, "partial")


def _temporary_file_name(filename: str, sha256: str, suffix: str) -> str:
    return f"{validate_file_name(filename)}.{sha256[:16]}.{suffix}"


def compute_sha256(
    path: Path, cancelled: threading.Event | None = None, on_progress: Callable[[int], None] | None = None
) -> str | None:
    """The sha256 (lower hex) of a file, None once `cancelled`; `progress` hears the bytes read so far. Raises OSError."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_CHUNK_BYTES))
    done = 0
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            if cancelled is not None and cancelled.is_set():
                return None
            digest.update(buffer[:size])
            done += size
            if on_progress is not None:
                on_progress(done)
    return digest.hexdigest()


class ModelFiles:
    """The models directory. Blocking; every method raises OSError as the disk does."""

    def __init__(self, models_dir: Path) -> None:
        self.models_dir = models_dir

    def model_directory(self, model_id: str) -> Path:
        return self.models_dir / validate_file_name(model_id)

    def file_path(self, model_id: str, filename: str) -> Path:
        return self.model_directory(model_id) / validate_file_name(filename)

    def partial_path(self, model_id: str, spec: FileSpec) -> Path:
        return self.model_directory(model_id) / partial_file_name(spec)

    def get_file_stamp(self, model_id: str, filename: str) -> FileStamp | None:
        """Size and time of change of a finished file; None if there is none."""
        path = self.file_path(model_id, filename)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return file_stamp_of(status) if stat.S_ISREG(status.st_mode) else None

    def has_file(self, model_id: str, spec: FileSpec) -> bool:
        """Whether the finished file is there, with its right size."""
        found = self.get_file_stamp(model_id, spec.name)
        return found is not None and found.size_bytes == spec.size_bytes

    def free_disk_bytes(self) -> int:
        """Bytes the disk of the models directory still takes."""
        return platform_compat.free_disk_bytes(self.models_dir)

    # --- adopting ------------------------------------------------------------------------------------

    def import_file(
        self, model_id: str, source: Path, spec: FileSpec, cancelled: threading.Event | None = None
    ) -> bool:
        """Put the file `source` in place as `spec` without fetching it: a hard link, else a clone, else a copy.

        False if it is not that file (by size and sha256), or once `cancelled`. `source` stays as it is.
        """
        source = source.resolve(strict=True)  # the Hugging Face cache shows its files as symbolic links
        if not source.is_file() or source.stat().st_size != spec.size_bytes:
            return False
        target = self.file_path(model_id, spec.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not under the name of a partial: that name means that a download may go on with it.
        temporary = target.parent / _temporary_file_name(spec.name, spec.sha256, "adopting")
        temporary.unlink(missing_ok=True)
        try:
            if not self._link_or_copy(source, temporary, cancelled):
                return False
            if compute_sha256(temporary, cancelled) != spec.sha256:
                return False
            platform_compat.replace_durably(temporary, target)
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
        if platform_compat.clone_file(source, target):
            return True
        with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
            offset = 0
            while piece := reader.read(READ_CHUNK_BYTES):
                if cancelled is not None and cancelled.is_set():
                    return False
                platform_compat.pwrite(writer.fileno(), piece, offset)
                offset += len(piece)
            os.fsync(writer.fileno())
        return True

    # --- removing ------------------------------------------------------------------------------------

    def remove_files(self, model_id: str, filenames: Sequence[str]) -> None:
        """Remove these files of a model and their partials, then its directory if nothing else is in it.

        Call it in a thread: unlinking gigabytes takes long enough to be noticed.
        """
        directory = self.model_directory(model_id)
        names = {validate_file_name(name) for name in filenames}
        if directory.is_symlink():
            # What it points at is somebody's choice outside; only the pointer is ours.
            directory.unlink()
            return
        for path in _list_directory(directory):
            match = _TEMPORARY_NAME_PATTERN.fullmatch(path.name)
            if path.name in names or (match is not None and match["name"] in names):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            directory.rmdir()

    # --- unfinished downloads ------------------------------------------------------------------------

    def list_partials(self) -> list[PartialFileInfo]:
        """Unfinished downloads, the oldest first."""
        now = time.time()
        found = []
        for directory in _list_directory(self.models_dir):
            if directory.is_symlink():
                continue
            for path in _list_directory(directory):
                if _TEMPORARY_NAME_PATTERN.fullmatch(path.name) is None:
                    continue
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    age_s = max(0.0, now - status.st_mtime)
                    found.append(PartialFileInfo(directory.name, path, status.st_size, age_s))
        return sorted(found, key=lambda partial: -partial.age_s)

    def demote_to_partial(self, model_id: str, filename: str, sha256: str) -> None:
        """Make a finished file a partial again: its model was cancelled before all its files were there."""
        path = self.file_path(model_id, filename)
        if not path.is_file():
            return
        if path.stat().st_nlink > 1:
            # A link to somebody's file: a download must not write into theirs, and adopting it anew costs nothing.
            path.unlink()
            return
        partial = path.parent / _temporary_file_name(filename, sha256, "partial")
        platform_compat.replace_durably(path, partial)
        os.utime(partial)  # its age counts from now

    def remove_old_partials(self, older_than_s: float, protected_model_ids: Collection[str]) -> int:
        """Remove partials older than this but those of the models in `keep`; returns the bytes freed."""
        return sum(
            self._remove_partial(partial)
            for partial in self.list_partials()
            if partial.age_s > older_than_s and partial.model_id not in protected_model_ids
        )

    def free_up_space(self, needed_bytes: int, protected_model_ids: Collection[str]) -> int:
        """Remove partials, the oldest first and none of the models in `keep`, until `needed_bytes` are free.

        Returns the bytes freed, which may be too few.
        """
        freed = 0
        for partial in self.list_partials():
            if self.free_disk_bytes() >= needed_bytes:
                break
            if partial.model_id not in protected_model_ids:
                freed += self._remove_partial(partial)
        return freed

    @staticmethod
    def _remove_partial(partial: PartialFileInfo) -> int:
        partial.path.unlink(missing_ok=True)
        with suppress(OSError):
            partial.path.parent.rmdir()
        return partial.size_bytes

    def disk_used_bytes(self) -> int:
        """Bytes of all models and partials."""
        used = 0
        for directory in _list_directory(self.models_dir):
            for path in _list_directory(directory):
                with suppress(FileNotFoundError):
                    used += path.lstat().st_size
        return used


def _list_directory(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
