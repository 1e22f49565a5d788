"""Start of llb from llb.pyz: unpack its packages into the cache directory, once, and run them from there.

Only the standard library is here: nothing is unpacked yet.

    llb.pyz              __main__.py, this module, manifest.json, common.tar.xz, large.tar.xz, cp311.tar.xz, …
    CACHE/.lock          held while a tree is checked, unpacked or removed: two starts take turns
    CACHE/0.1.0-<build>-cp311/
        .in-use          locked (shared) by each process that runs from this tree
        .checked         boot in which the contents were last compared with their checksums
        site-packages/   the packages
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import json
import os
import platform
import stat
import sys
import time
import zipimport
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

CACHE_VARIABLE = "LLB_CACHE_DIR"
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
LOCK_TIMEOUT_S = 120.0
LOCK_POLL_S = 0.02
# Bytecode, and what the file system needs beside the contents.
SPACE_FACTOR = 1.2
CHUNK_BYTES = 1 << 20
REMOVING_PREFIX, WRITING_SUFFIX = ".removing-", ".writing"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Locks of the trees that this process uses, open until it ends.
_held: list[int] = []


class BootstrapError(Exception):
    """llb cannot run from its file; the text says why and what helps, as sentences."""


@dataclass(frozen=True)
class Content:
    """File of a tree."""

    size_bytes: int
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """What a program file contains. `parts`: files for every Python, and those of each, by tag (cp311)."""

    version: str
    build: str
    machine: str
    glibc: tuple[int, int]
    parts: Mapping[str, Mapping[str, Content]]

    @property
    def tags(self) -> list[str]:
        return sorted(name for name in self.parts if name.startswith("cp3"))

    def parts_of(self, tag: str) -> list[str]:
        """Names of the parts that a tree for this Python has."""
        return [name for name in self.parts if name == tag or name not in self.tags]


def main(program_file: str) -> NoReturn:
    """Run llb with the arguments of this process, and end with its status."""
    try:
        site = prepare(Path(program_file))
    except BootstrapError as error:
        sys.stderr.write(f"llb: {error}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.path[:] = import_path(sys.path, site, program_file)
    sys.exit(importlib.import_module("llb.__main__").main(Path(program_file)))


def import_path(found: Iterable[str], site: Path, program_file: str) -> list[str]:
    """Return `sys.path` for the program: its packages, then what was `found`, less packages of others."""
    foreign = ("site-packages", "dist-packages")
    return [
        str(site),
        *(path for path in found if path != program_file and Path(path).name not in foreign),
    ]


def prepare(program_file: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of the packages, unpacked and whole, in use by this process.

    Raises `BootstrapError`.
    """
    manifest = read_manifest(program_file)
    tag = check_host(manifest)
    umask = os.umask(0o077)
    try:
        cache = open_cache(cache_directory(environ))
        tree = cache / f"{manifest.version}-{manifest.build}-{tag}"
        with locked(cache / ".lock"):
            ensure_tree(program_file, manifest, tag, tree)
            use_tree(tree)
            remove_unused(cache, f"{manifest.version}-{manifest.build}-")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise BootstrapError(
            f"The cache directory cannot be used ({where}{error.strerror}). "
            f"Name another one with {CACHE_VARIABLE}."
        ) from None
    finally:
        os.umask(umask)
    return tree / "site-packages"


def read_manifest(program_file: Path) -> Manifest:
    """Return the manifest of a program file. Raises `BootstrapError`."""
    try:
        read = json.loads(zipimport.zipimporter(str(program_file)).get_data("manifest.json"))
        parts = {
            name: {path: Content(*numbers) for path, numbers in files.items()}
            for name, files in read["parts"].items()
        }
        major, minor = read["glibc"]
        return Manifest(read["version"], read["build"], read["machine"], (major, minor), parts)
    except (OSError, ValueError, KeyError, TypeError, zipimport.ZipImportError, zlib.error):
        raise _damaged(program_file) from None


def check_host(manifest: Manifest) -> str:
    """Return the tag of the packages for this Python. Raises `BootstrapError` if there are none."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    if sys.implementation.name != "cpython" or tag not in manifest.tags:
        names = [f"3.{name.removeprefix('cp3')}" for name in manifest.tags]
        raise BootstrapError(
            f"This file has packages for Python {', '.join(names[:-1])}{' and ' if names[:-1] else ''}"
            f"{names[-1]}, this is {platform.python_implementation()} {platform.python_version()}. "
            f"Run it with one of these: python{names[-1]} {sys.argv[0]}"
        )
    if not sys.platform.startswith("linux") or platform.machine() != manifest.machine:
        raise BootstrapError(
            f"This file is for Linux on {manifest.machine}, this is {platform.system()} on "
            f"{platform.machine()}. Install llb with pip instead."
        )
    found = _glibc_version()
    if found is None or found < manifest.glibc:
        needed = ".".join(map(str, manifest.glibc))
        this = "another C library" if found is None else f"glibc {found[0]}.{found[1]}"
        raise BootstrapError(f"This file needs glibc {needed} or newer, this system has {this}.")
    return tag


def _glibc_version() -> tuple[int, int] | None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        name, _, number = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        if name == "glibc":
            major, minor = number.split(".")[:2]
            return int(major), int(minor)
    return None


# --- the cache directory -----------------------------------------------------------------------------


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory in which trees are unpacked; it need not exist. Raises `BootstrapError`."""
    if named := environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    # By its specification, a relative path is ignored.
    if (base := environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        return Path(base) / "llb"
    try:
        return Path("~/.cache/llb").expanduser()
    except RuntimeError:
        raise BootstrapError(
            f"This user has no home directory. Name a cache directory with {CACHE_VARIABLE}."
        ) from None


def open_cache(path: Path) -> Path:
    """Create the cache directory, and return its real path. Raises `BootstrapError` if it cannot be used."""
    remedy = f"Name another one with {CACHE_VARIABLE}."
    try:
        path.mkdir(parents=True, exist_ok=True)
        real = path.resolve(strict=True)
        flags = os.statvfs(real).f_flag
    except OSError as error:
        raise BootstrapError(
            f"The cache directory {path} cannot be created ({error.strerror}). {remedy}"
        ) from None
    if (reason := find_exposure(real)) is not None:
        raise BootstrapError(f"The cache directory {path} is not safe: {reason}. {remedy}")
    if flags & os.ST_NOEXEC:
        raise BootstrapError(
            f"The cache directory {path} is on a file system that is mounted noexec: the libraries of llb "
            f"cannot be loaded from there. {remedy}"
        )
    if not os.access(real, os.W_OK | os.X_OK):
        raise BootstrapError(f"The cache directory {path} cannot be written. {remedy}")
    return real


def find_exposure(directory: Path) -> str | None:
    """Return who else could put code into a directory, as a clause; None if only this user and root can.

    Whoever can rename a parent directory can put another one in its place.
    """
    user = os.geteuid()
    for each in (directory, *directory.parents):
        status = each.stat()
        if status.st_uid not in (0, user) and not _is_unmapped(status.st_uid):
            return f"{each} belongs to another user"
        # In a sticky directory only the owner of an entry renames it.
        if status.st_mode & stat.S_ISVTX and each != directory:
            continue
        if status.st_mode & stat.S_IWOTH:
            return f"every user can write to {each} (chmod o-w {each})"
        if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid, user):
            return f"the group of {each} can write to it (chmod g-w {each})"
    return None


def _is_unmapped(user: int) -> bool:
    """Whether an owner is one that this user namespace does not know, such as the host's root."""
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
        ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return False
    return user == overflow and not any(
        int(first) <= user < int(first) + int(count) for first, _, count in ranges
    )


def _is_own_group(group: int, user: int) -> bool:
    """Whether a group is root's, or the one that has the user's name and no other member."""
    if group == 0:
        return True
    grp, pwd = importlib.import_module("grp"), importlib.import_module("pwd")
    try:
        entry, name = grp.getgrgid(group), pwd.getpwuid(user).pw_name
    except KeyError:
        return False
    return bool(entry.gr_name == name and set(entry.gr_mem) <= {name})


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the cache directory. Raises `BootstrapError` after a timeout."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _try_lock(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise BootstrapError(
                    f"Another llb has been unpacking into {path.parent} for {LOCK_TIMEOUT_S:.0f} s: "
                    "stop it first."
                )
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- trees -------------------------------------------------------------------------------------------


def ensure_tree(program_file: Path, manifest: Manifest, tag: str, tree: Path) -> None:
    """Make `tree` whole: unpack what is missing or changed. Raises `BootstrapError` and OSError."""
    is_new = not os.path.lexists(tree)
    if not is_new:
        require_own(tree)
    checked = tree / ".checked"
    boot = _read_text(BOOT_ID)
    # A loss of power leaves files that are empty or zeroed, so contents are compared once after each boot.
    is_deep = not is_new and _read_text(checked) != boot
    missing = {
        part: names
        for part in manifest.parts_of(tag)
        if (names := find_missing(tree / "site-packages", manifest.parts[part], is_deep=is_deep))
    }
    if missing:
        try:
            unpack(program_file, manifest, missing, tree)
        except BaseException:
            if is_new:
                _remove_tree(tree)
            raise
    if missing or is_deep:
        checked.write_text(boot, encoding="ascii")


def require_own(tree: Path) -> None:
    """Raise `BootstrapError` unless this user has made `tree`, and no one else could write to it.

    The cache directory may have been open to others before.
    """
    status = tree.lstat()
    is_own = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not (is_own and stat.S_ISDIR(status.st_mode)):
        raise BootstrapError(f"{tree} was not made by this user, or others can write to it: remove it.")


def find_missing(site: Path, contents: Mapping[str, Content], *, is_deep: bool) -> set[str]:
    """Return the files that are missing or changed; with `is_deep` contents are compared."""
    missing: set[str] = set()
    base = f"{site}/"
    for name, content in contents.items():
        try:
            status = os.lstat(base + name)
        except OSError:
            missing.add(name)
            continue
        is_whole = stat.S_ISREG(status.st_mode) and status.st_size == content.size_bytes
        if not is_whole or (is_deep and _crc32_of(site / name) != content.crc32):
            missing.add(name)
    return missing


def unpack(program_file: Path, manifest: Manifest, missing: Mapping[str, set[str]], tree: Path) -> None:
    """Write the `missing` files of each part. Raises `BootstrapError` and OSError."""
    try:
        lzma, tarfile, zipfile, futures = map(
            importlib.import_module, ("lzma", "tarfile", "zipfile", "concurrent.futures")
        )
    except ImportError as error:
        raise BootstrapError(f"This Python was built without its module {error.name}.") from None
    size_bytes = sum(
        manifest.parts[part][name].size_bytes for part, names in missing.items() for name in names
    )
    disk = os.statvfs(tree.parent)
    if disk.f_bavail * disk.f_frsize < size_bytes * SPACE_FACTOR:
        raise _no_space(tree.parent, size_bytes)
    if sys.stderr.isatty():
        sys.stderr.write(f"llb: unpacking {size_bytes / 1e6:.0f} MB into {tree.parent}, once\n")

    def unpack_part(part: str) -> None:
        contents, rest = manifest.parts[part], set(missing[part])
        with (
            zipfile.ZipFile(program_file) as archive,
            archive.open(f"{part}.tar.xz") as data,
            tarfile.open(fileobj=data, mode="r|xz") as members,
        ):
            for member in members:
                if member.name in rest:
                    rest.discard(member.name)
                    content = members.extractfile(member).read()
                    if zlib.crc32(content) != contents[member.name].crc32:
                        raise _damaged(program_file)
                    _write(tree / "site-packages" / member.name, content)
        if rest:
            raise _damaged(program_file)

    try:
        # xz decompresses without the interpreter lock.
        with futures.ThreadPoolExecutor() as workers:
            list(workers.map(unpack_part, missing))
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, KeyError):
        raise _damaged(program_file) from None
    except OSError as error:
        if error.errno in _FULL:
            raise _no_space(tree.parent, size_bytes) from None
        raise


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed, because a process that runs from this tree may have the old file open or mapped.
    partial = path.with_name(path.name + WRITING_SUFFIX)
    partial.write_bytes(content)
    partial.replace(path)


def use_tree(tree: Path) -> None:
    """Lock a tree for the time that this process runs, so that no other version removes it."""
    lock = os.open(tree / ".in-use", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):
        # Some network file systems have no locks.
        fcntl.flock(lock, fcntl.LOCK_SH)
    _held.append(lock)


def remove_unused(cache: Path, kept_prefix: str) -> None:
    """Remove the trees of other builds that no process uses, and what a removal left that was killed."""
    for tree in sorted(cache.iterdir()):
        if tree.name.startswith(REMOVING_PREFIX):
            _remove_tree(tree)
        elif (
            (tree / "site-packages").is_dir() and not tree.name.startswith(kept_prefix) and not _is_used(tree)
        ):
            # Renamed first: a tree that is half removed must not look like one.
            removed = tree.with_name(REMOVING_PREFIX + tree.name)
            with contextlib.suppress(OSError):
                tree.replace(removed)
                _remove_tree(removed)


def _is_used(tree: Path) -> bool:
    try:
        lock = os.open(tree / ".in-use", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # Unpacking it was interrupted.
        return False
    except OSError:
        return True
    try:
        return not _try_lock(lock, fcntl.LOCK_EX)
    except OSError:
        return True
    finally:
        os.close(lock)


def _remove_tree(tree: Path) -> None:
    importlib.import_module("shutil").rmtree(tree, ignore_errors=True)


def _crc32_of(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _damaged(program_file: Path) -> BootstrapError:
    return BootstrapError(f"{program_file} is damaged: download it again.")


def _no_space(cache: Path, size_bytes: int) -> BootstrapError:
    return BootstrapError(
        f"The cache directory {cache} has no room for the {size_bytes / 1e6:.0f} MB of llb. "
        f"Free some, or name another directory with {CACHE_VARIABLE}."
    )
