"""The program file: a zip with the bootstrap and, for each Python, its packages. The same bytes each time."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

SHEBANG = b"#!/usr/bin/env python3\n"
BOOTSTRAP = Path(__file__).with_name("bootstrap")
BOOTSTRAP_MODULES = ("__main__.py", "llb_bootstrap.py")
COMMON, LARGE = "common", "large"
# Files beyond it are a part of their own: parts are unpacked side by side.
LARGE_BYTES = 32 << 20
# Of xz. Higher ones take up to ten times as long, for 7 % (docs/packaging.md).
PRESET = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)

Files = Mapping[str, bytes]


def split_common(files_by_tag: Mapping[str, Files]) -> dict[str, dict[str, bytes]]:
    """Return the files by part: those that are the same for every Python, in two, and the others of each."""
    first, *others = files_by_tag.values()
    parts: dict[str, dict[str, bytes]] = {COMMON: {}, LARGE: {}}
    for name, content in first.items():
        if all(each.get(name) == content for each in others):
            parts[LARGE if len(content) > LARGE_BYTES else COMMON][name] = content
    shared = parts[COMMON].keys() | parts[LARGE].keys()
    for tag, files in files_by_tag.items():
        parts[tag] = {name: content for name, content in files.items() if name not in shared}
    return parts


def write_program_file(
    target: Path,
    files_by_tag: Mapping[str, Files],
    *,
    version: str,
    glibc: tuple[int, int],
    documents: Files,
    preset: int = PRESET,
) -> None:
    """Write the program file; `documents` are licences and the like, which a person finds in the zip.

    `preset` is that of xz.
    """
    parts = split_common(files_by_tag)
    with ThreadPoolExecutor() as workers:
        packed = dict(zip(parts, workers.map(partial(_pack, preset=preset), parts.values()), strict=True))
    bootstrap = {name: (BOOTSTRAP / name).read_bytes() for name in BOOTSTRAP_MODULES}
    manifest = {
        "version": version,
        "build": _digest(parts)[:12],
        "machine": "x86_64",
        "glibc": list(glibc),
        "parts": {
            part: {name: [len(files[name]), zlib.crc32(files[name])] for name in sorted(files)}
            for part, files in parts.items()
        },
    }
    encoded = json.dumps(manifest, separators=(",", ":")).encode()
    entries = {**bootstrap, "manifest.json": encoded, **{name: documents[name] for name in sorted(documents)}}
    unfinished = target.with_name(target.name + ".partial")
    with unfinished.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(_entry(name), content, zipfile.ZIP_DEFLATED, 9)
            for part, content in packed.items():
                archive.writestr(_entry(f"{part}.tar.xz"), content, zipfile.ZIP_STORED)
    unfinished.chmod(0o755)
    unfinished.replace(target)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry


def _pack(files: Files, preset: int) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        # Files of a kind one after the other: xz finds their common parts.
        for name in sorted(files, key=lambda name: (PurePosixPath(name).suffix, name)):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return lzma.compress(plain.getbuffer(), preset=preset)


def _digest(parts: Mapping[str, Files]) -> str:
    digest = hashlib.sha256()
    for part, files in parts.items():
        for name in sorted(files):
            digest.update(f"{part}\0{name}\0{len(files[name])}\0".encode())
            digest.update(files[name])
    return digest.hexdigest()
