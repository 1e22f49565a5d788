"""Model files on disk: `models/<model id>/<file>` with partial downloads next to them, and nothing outside.

A finished file is never modified. It may therefore be a hard link to a file of another program
(`import_file`): nothing here alters or removes that file, and a change of it shows in the file stamp.
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
from pathlib import Path

from msgspec import Struct

from llb.base import platform_compat
from llb.wire import FileSpec

READ_CHUNK_BYTES = 1 << 20
# Leaves room for the suffix of a partial download in the 255 bytes that file systems allow.
MAX_FILE_NAME_BYTES = 200
_FORBIDDEN_CHARS = re.compile(r'[\x00-\x1f\x7f/\\<>:"|?*]')
_RESERVED_NAMES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_TEMPORARY_NAME_PATTERN = re.compile(r"(?P<name>.+)\.[0-9a-f]{16}\.(partial|adopting)")
# Between the name of the file and its hash: the offset of a segment.
_SEGMENT_MARK = re.compile(r"\.at(?P<start>[0-9]{1,15})")


class UnsafeFileName(ValueError):
    """A file name that could leave its directory, or that some operating system does not allow."""


class FileStamp(Struct, frozen=True):
    """Size and modification time, enough to detect that a verified file has changed."""

    size_bytes: int
    mtime_ns: int


def file_stamp_of(status: os.stat_result) -> FileStamp:
    return FileStamp(status.st_size, status.st_mtime_ns)


class PartialFileInfo(Struct, frozen=True):
    """A partial download on disk; `age_s` is the time since its last byte."""

    model_id: str
    path: Path
    size_bytes: int
    age_s: float


def validate_file_name(name: str) -> str:
    """`name`, if it is a safe path component on every system; raises `UnsafeFileName`."""
    if (
        not 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_FILE_NAME_BYTES
        or _FORBIDDEN_CHARS.search(name)
        or name.startswith((" ", ".."))
        or name.endswith((" ", "."))
        or _RESERVED_NAMES.fullmatch(name)
        or _TEMPORARY_NAME_PATTERN.fullmatch(name)
    ):
        raise UnsafeFileName(f"{name!r} is not a valid name of a model file")
    return name


def partial_file_name(spec: FileSpec) -> str:
    """Name of the partial download of `spec`, with its hash: bytes of another version are never continued."""
    return _temporary_file_name(spec.name, spec.sha256, "partial")


def segment_file_name(spec: FileSpec, start: int) -> str:
    """Name of the segment of `spec` whose first byte is at `start`: bytes that arrived before their turn."""
    return f"{validate_file_name(spec.name)}.at{start}.{spec.sha256[:16]}.partial"


def segment_start_of(spec: FileSpec, filename: str) -> int | None:
    """Offset of the segment of `spec` with this file name; None if it is none."""
    mark = filename.removeprefix(spec.name).removesuffix(f".{spec.sha256[:16]}.partial")
    match = _SEGMENT_MARK.fullmatch(mark)
    return (
        None
        if match is None or segment_file_name(spec, int(match["start"])) != filename
        else int(match["start"])
    )


def _is_temporary_file_of(names: Collection[str], filename: str) -> bool:
    """Whether this is the name of a partial download, or a segment of one, of a file in `names`."""
    match = _TEMPORARY_NAME_PATTERN.fullmatch(filename)
    if match is None:
        return False
    name, mark, start = match["name"].rpartition(".at")
    return match["name"] in names or (bool(mark) and start.isdecimal() and name in names)


def _temporary_file_name(filename: str, sha256: str, suffix: str) -> str:
    return f"{validate_file_name(filename)}.{sha256[:16]}.{suffix}"


def compute_sha256(
    path: Path, cancelled: threading.Event | None = None, on_progress: Callable[[int], None] | None = None
) -> str | None:
    """The sha256 of a file in lower-case hex; None if `cancelled`. Raises OSError.

    `on_progress` is called with the number of bytes read so far.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_CHUNK_BYTES))
    read_bytes = 0
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            if cancelled is not None and cancelled.is_set():
                return None
            digest.update(buffer[:size])
            read_bytes += size
            if on_progress is not None:
                on_progress(read_bytes)
    return digest.hexdigest()


class ModelFiles:
    """The models directory. Every method blocks, and raises OSError for disk errors."""

    def __init__(self, models_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds; the age of partial downloads is counted by it."""
        self.models_dir = models_dir
        self._clock = clock

    def model_directory(self, model_id: str) -> Path:
        return self.models_dir / validate_file_name(model_id)

    def file_path(self, model_id: str, filename: str) -> Path:
        return self.model_directory(model_id) / validate_file_name(filename)

    def partial_path(self, model_id: str, spec: FileSpec) -> Path:
        return self.model_directory(model_id) / partial_file_name(spec)

    def get_file_stamp(self, model_id: str, filename: str) -> FileStamp | None:
        """Stamp of a finished file; None if it does not exist."""
        path = self.file_path(model_id, filename)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return file_stamp_of(status) if stat.S_ISREG(status.st_mode) else None

    def has_file(self, model_id: str, spec: FileSpec) -> bool:
        """Whether the finished file exists with the size of `spec`."""
        stamp = self.get_file_stamp(model_id, spec.name)
        return stamp is not None and stamp.size_bytes == spec.size_bytes

    def free_disk_bytes(self) -> int:
        """Free bytes on the disk of the models directory."""
        return platform_compat.free_disk_bytes(self.models_dir)

    # --- import --------------------------------------------------------------------------------------

    def import_file(
        self, model_id: str, source: Path, spec: FileSpec, cancelled: threading.Event | None = None
    ) -> bool:
        """Import the file `source` as `spec` without a download: as a hard link, else a clone, else a copy.

        False if its size or sha256 differs, or if `cancelled`. `source` is not changed.
        """
        # The Hugging Face cache contains symbolic links to its files.
        source = source.resolve(strict=True)
        if not source.is_file() or source.stat().st_size != spec.size_bytes:
            return False
        target = self.file_path(model_id, spec.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not under the name of a partial download, which a download would continue.
        temporary = target.parent / _temporary_file_name(spec.name, spec.sha256, "adopting")
        temporary.unlink(missing_ok=True)
        try:
            if not self._link_or_copy(source, temporary, cancelled):
                return False
            if compute_sha256(temporary, cancelled) != spec.sha256:
                return False
            platform_compat.replace_durably(temporary, target)
        finally:
            # Renaming a link of a file to another link of it does nothing: the name may remain after success.
            temporary.unlink(missing_ok=True)
        self.partial_path(model_id, spec).unlink(missing_ok=True)
        for path in _list_directory(target.parent):
            if segment_start_of(spec, path.name) is not None:
                path.unlink(missing_ok=True)
        return True

    @staticmethod
    def _link_or_copy(source: Path, target: Path, cancelled: threading.Event | None) -> bool:
        # Fails on another file system, on one without links, and for a source of another user.
        with suppress(OSError):
            target.hardlink_to(source)
            return True
        if platform_compat.clone_file(source, target):
            return True
        with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
            offset = 0
            while chunk := reader.read(READ_CHUNK_BYTES):
                if cancelled is not None and cancelled.is_set():
                    return False
                platform_compat.pwrite(writer.fileno(), chunk, offset)
                offset += len(chunk)
            os.fsync(writer.fileno())
        return True

    # --- removal -------------------------------------------------------------------------------------

    def remove_files(self, model_id: str, filenames: Sequence[str]) -> None:
        """Remove files of a model with their partial downloads, then its directory if it is empty.

        Call it in a thread: unlinking gigabytes takes noticeable time.
        """
        directory = self.model_directory(model_id)
        names = {validate_file_name(name) for name in filenames}
        if directory.is_symlink():
            # Its target was chosen by the user; only the link belongs to llb.
            directory.unlink()
            return
        for path in _list_directory(directory):
            if path.name in names or _is_temporary_file_of(names, path.name):
                path.unlink(missing_ok=True)
        # Fails if the directory is not empty or does not exist.
        with suppress(OSError):
            directory.rmdir()

    # --- partial downloads ---------------------------------------------------------------------------

    def list_partials(self) -> list[PartialFileInfo]:
        """Partial downloads, the oldest first."""
        partials = [
            partial
            for directory in _list_directory(self.models_dir)
            for partial in self._list_partials_in(directory)
        ]
        return sorted(partials, key=lambda partial: -partial.age_s)

    def _list_partials_in(self, directory: Path) -> list[PartialFileInfo]:
        if directory.is_symlink():
            return []
        now = self._clock()
        partials = []
        for path in _list_directory(directory):
            if _TEMPORARY_NAME_PATTERN.fullmatch(path.name) is None:
                continue
            with suppress(FileNotFoundError):
                status = path.lstat()
                age_s = max(0.0, now - status.st_mtime)
                partials.append(PartialFileInfo(directory.name, path, status.st_size, age_s))
        return partials

    def partial_bytes_of(self, model_id: str) -> int:
        """Bytes of the partial downloads of a model."""
        return sum(partial.size_bytes for partial in self._list_partials_in(self.model_directory(model_id)))

    def discard_partials(self, model_id: str) -> int:
        """Remove the partial downloads of a model; returns the bytes freed."""
        found = self._list_partials_in(self.model_directory(model_id))
        return sum(self._remove_partial(partial) for partial in found)

    def demote_to_partial(self, model_id: str, filename: str, sha256: str) -> None:
        """Turn a finished file of a cancelled, incomplete model back into a partial download."""
        path = self.file_path(model_id, filename)
        if not path.is_file():
            return
        if path.stat().st_nlink > 1:
            # A hard link to a file of another program, which a download must not modify.
            path.unlink()
            return
        partial = path.parent / _temporary_file_name(filename, sha256, "partial")
        platform_compat.replace_durably(path, partial)
        # Its age is counted from now.
        os.utime(partial)

    def remove_old_partials(self, older_than_s: float, protected_model_ids: Collection[str]) -> int:
        """Remove older partial downloads, except those of protected models; returns the bytes freed."""
        return sum(
            self._remove_partial(partial)
            for partial in self.list_partials()
            if partial.age_s > older_than_s and partial.model_id not in protected_model_ids
        )

    def free_up_space(self, needed_bytes: int, protected_model_ids: Collection[str]) -> int:
        """Remove partial downloads of unprotected models, the oldest first, until `needed_bytes` are free.

        Returns the bytes freed, which may be too few.
        """
        freed_bytes = 0
        for partial in self.list_partials():
            if self.free_disk_bytes() >= needed_bytes:
                break
            if partial.model_id not in protected_model_ids:
                freed_bytes += self._remove_partial(partial)
        return freed_bytes

    @staticmethod
    def _remove_partial(partial: PartialFileInfo) -> int:
        partial.path.unlink(missing_ok=True)
        with suppress(OSError):
            partial.path.parent.rmdir()
        return partial.size_bytes

    def disk_used_bytes(self) -> int:
        """Bytes of all models and partial downloads."""
        used_bytes = 0
        for directory in _list_directory(self.models_dir):
            for path in _list_directory(directory):
                with suppress(FileNotFoundError):
                    used_bytes += path.lstat().st_size
        return used_bytes


def _list_directory(directory: Path) -> Iterator[Path]:
    try:
        yield from sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
