from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest

from llb.base import platform_compat
from llb.node.files import (
    FileStamp,
    ModelFiles,
    UnsafeFileName,
    compute_sha256,
    partial_file_name,
    validate_file_name,
)
from llb.wire import FileSpec

# Larger than several read chunks.
CONTENT = b"GGUF" + bytes(range(256)) * 20_000
MODEL = "smollm2-135m"


def create_spec(content: bytes, name: str = "a.gguf") -> FileSpec:
    return FileSpec(
        name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), sources=()
    )


SPEC = create_spec(CONTENT)


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "models")


def write_file(path: Path, content: bytes = CONTENT, *, age_s: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if age_s:
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    return path


# --- names ----------------------------------------------------------------------------------------


HOSTILE_NAMES = [
    "", ".", "..", "a/b", "a\\b", "/etc/passwd", "../x", "..x", "a\0b", "a\nb", "C:x", "a?b", "a|b",
    "a.", "a ", " a",
    "con", "NUL.gguf", "com1", "lpt9.txt", "x" * 201, "é" * 101, "a.gguf.0123456789abcdef.partial",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_could_leave_the_directory_or_clash_are_refused(files: ModelFiles, name: str) -> None:
    for use in (validate_file_name, files.model_directory, lambda name: files.file_path(MODEL, name)):
        with pytest.raises(UnsafeFileName):
            use(name)


@pytest.mark.parametrize(
    "name", ["llama-3.2-1b", "Model-Q4_K_M.gguf", "a-00001-of-00002.gguf", "模型.gguf", "console.gguf"]
)
def test_names_that_people_use_are_fine(files: ModelFiles, name: str) -> None:
    assert files.file_path(MODEL, name) == files.models_dir / MODEL / name


def test_a_partials_name_depends_on_the_content(files: ModelFiles) -> None:
    assert partial_file_name(SPEC) == f"a.gguf.{SPEC.sha256[:16]}.partial"
    assert partial_file_name(SPEC) != partial_file_name(create_spec(b"other"))
    assert files.partial_path(MODEL, SPEC).parent == files.model_directory(MODEL)


# --- stamps and hashes ----------------------------------------------------------------------------


def test_a_file_is_present_with_its_right_size_only(files: ModelFiles) -> None:
    assert not files.has_file(MODEL, SPEC)
    write_file(files.file_path(MODEL, SPEC.name), CONTENT[:-1])
    assert not files.has_file(MODEL, SPEC)
    write_file(files.file_path(MODEL, SPEC.name))
    assert files.has_file(MODEL, SPEC)


def test_a_fingerprint_changes_with_the_file(files: ModelFiles) -> None:
    path = files.file_path(MODEL, SPEC.name)
    assert files.get_file_stamp(MODEL, SPEC.name) is None
    write_file(path)
    first = files.get_file_stamp(MODEL, SPEC.name)
    assert first == FileStamp(len(CONTENT), path.stat().st_mtime_ns)
    os.utime(path, ns=(0, 1))
    assert files.get_file_stamp(MODEL, SPEC.name) != first
    path.unlink()
    path.mkdir()
    assert files.get_file_stamp(MODEL, SPEC.name) is None


def test_sha256_tells_how_far_it_is_and_stops_when_told(files: ModelFiles) -> None:
    path = write_file(files.file_path(MODEL, SPEC.name))
    seen: list[int] = []
    assert compute_sha256(path, on_progress=seen.append) == SPEC.sha256
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)

    cancelled = threading.Event()
    told: list[int] = []

    def stop(done: int) -> None:
        told.append(done)
        cancelled.set()

    assert compute_sha256(path, cancelled, stop) is None
    assert len(told) == 1


def test_disk_used_counts_partials_too(files: ModelFiles) -> None:
    assert files.disk_used_bytes() == 0
    write_file(files.file_path(MODEL, SPEC.name), b"12345")
    write_file(files.partial_path("other", SPEC), b"123")
    assert files.disk_used_bytes() == 8
    assert files.free_disk_bytes() > 0


# --- import ---------------------------------------------------------------------------------------


def test_a_file_on_the_same_disk_is_linked_and_stays_where_it_was(files: ModelFiles, tmp_path: Path) -> None:
    source = write_file(tmp_path / "downloads" / "theirs.bin")
    write_file(files.partial_path(MODEL, SPEC), CONTENT[:10])
    assert files.import_file(MODEL, source, SPEC)
    assert source.samefile(files.file_path(MODEL, SPEC.name))
    assert [path.name for path in files.model_directory(MODEL).iterdir()] == [SPEC.name]
    # A rename between two links of a file does nothing.
    assert files.import_file(MODEL, source, SPEC)
    assert [path.name for path in files.model_directory(MODEL).iterdir()] == [SPEC.name]


def test_a_symbolic_link_of_the_cache_is_followed(files: ModelFiles, tmp_path: Path) -> None:
    blob = write_file(tmp_path / "blobs" / SPEC.sha256)
    link = tmp_path / "snapshot.gguf"
    link.symlink_to(blob)
    assert files.import_file(MODEL, link, SPEC)
    adopted = files.file_path(MODEL, SPEC.name)
    assert not adopted.is_symlink()
    assert adopted.read_bytes() == CONTENT


def test_where_links_are_impossible_it_is_copied(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", other_disk)
    source = write_file(tmp_path / "theirs.bin")
    assert files.import_file(MODEL, source, SPEC)
    adopted = files.file_path(MODEL, SPEC.name)
    assert adopted.read_bytes() == CONTENT
    assert not source.samefile(adopted)
    cancelled = threading.Event()
    cancelled.set()
    monkeypatch.setattr(platform_compat, "clone_file", lambda src, dst: False)
    assert not files.import_file("other", source, SPEC, cancelled)
    assert list(files.model_directory("other").iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?"], ids=["size", "sha256"])
def test_another_file_is_not_adopted(files: ModelFiles, tmp_path: Path, content: bytes) -> None:
    source = write_file(tmp_path / "theirs.bin", content)
    assert not files.import_file(MODEL, source, SPEC)
    assert not files.file_path(MODEL, SPEC.name).exists()
    assert source.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        files.import_file(MODEL, tmp_path / "none", SPEC)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="clones are asked of Linux only")
def test_a_clone_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_file(tmp_path / "source")
    # Btrfs and XFS can.
    if platform_compat.clone_file(source, tmp_path / "clone"):
        assert (tmp_path / "clone").read_bytes() == CONTENT
    else:
        assert not (tmp_path / "clone").exists()
    monkeypatch.setattr(platform_compat, "_fcntl", None)
    assert not platform_compat.clone_file(source, tmp_path / "second")
    assert not (tmp_path / "second").exists()


# --- removal --------------------------------------------------------------------------------------


def test_only_the_named_files_and_their_partials_are_removed(files: ModelFiles) -> None:
    write_file(files.file_path(MODEL, "a.gguf"))
    write_file(files.partial_path(MODEL, SPEC))
    notes = write_file(files.file_path(MODEL, "notes.txt"))
    other = write_file(files.partial_path(MODEL, create_spec(CONTENT, "b.gguf")))
    files.remove_files(MODEL, ["a.gguf"])
    assert sorted(files.model_directory(MODEL).iterdir()) == sorted([notes, other])
    files.remove_files(MODEL, ["b.gguf", "notes.txt"])
    assert not files.model_directory(MODEL).exists()
    files.remove_files(MODEL, ["a.gguf"])


def test_what_lies_behind_a_symbolic_link_is_not_deleted(files: ModelFiles, tmp_path: Path) -> None:
    outside = write_file(tmp_path / "outside" / "a.gguf")
    partial = write_file(tmp_path / "outside" / partial_file_name(SPEC), age_s=100)
    files.models_dir.mkdir()
    files.model_directory(MODEL).symlink_to(outside.parent)
    assert files.list_partials() == []
    assert files.remove_old_partials(0, protected_model_ids=set()) == 0
    files.remove_files(MODEL, ["a.gguf"])
    assert not files.model_directory(MODEL).exists()
    assert outside.exists()
    assert partial.exists()

    write_file(files.file_path("other", "b.gguf")).unlink()
    files.file_path("other", "b.gguf").symlink_to(outside)
    files.remove_files("other", ["b.gguf"])
    assert outside.exists()


def test_removing_never_leaves_the_models_directory(files: ModelFiles, tmp_path: Path) -> None:
    outside = write_file(tmp_path / "outside" / "a.gguf")
    with pytest.raises(UnsafeFileName):
        files.remove_files("../outside", ["a.gguf"])
    with pytest.raises(UnsafeFileName):
        files.remove_files(MODEL, ["../../outside/a.gguf"])
    assert outside.exists()


# --- partials -------------------------------------------------------------------------------------


def test_partials_are_listed_oldest_first_and_swept_by_age(files: ModelFiles) -> None:
    write_file(files.file_path("done", "a.gguf"), age_s=500)
    young = write_file(files.partial_path("young", SPEC), b"GGUF", age_s=10)
    wanted = write_file(files.partial_path("wanted", SPEC), b"GGUF1", age_s=300)
    old = write_file(files.partial_path("old", SPEC), b"GGUF12", age_s=200)
    listed = files.list_partials()
    assert [partial.path for partial in listed] == [wanted, old, young]
    assert [partial.size_bytes for partial in listed] == [5, 6, 4]
    assert listed[1].model_id == "old"
    assert listed[1].age_s == pytest.approx(200, abs=5)

    assert files.remove_old_partials(100, protected_model_ids={"wanted"}) == 6
    assert [partial.path for partial in files.list_partials()] == [wanted, young]
    assert not old.parent.exists()
    assert files.has_file("done", SPEC)


def test_room_is_made_from_the_oldest_and_no_more_than_needed(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age_s, model_id in ((300, "wanted"), (200, "older"), (100, "newer")):
        write_file(files.partial_path(model_id, SPEC), bytes(1000), age_s=age_s)
    used = files.disk_used_bytes()
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda path: 50 + used - files.disk_used_bytes())
    assert files.free_up_space(40, protected_model_ids={"wanted"}) == 0
    assert files.free_up_space(1050, protected_model_ids={"wanted"}) == 1000
    assert {partial.model_id for partial in files.list_partials()} == {"wanted", "newer"}
    assert files.free_up_space(10_000, protected_model_ids={"wanted"}) == 1000
    assert {partial.model_id for partial in files.list_partials()} == {"wanted"}


def test_a_finished_file_can_become_a_partial_again(files: ModelFiles, tmp_path: Path) -> None:
    write_file(files.file_path(MODEL, SPEC.name), age_s=1_000_000)
    files.demote_to_partial(MODEL, SPEC.name, SPEC.sha256)
    assert not files.has_file(MODEL, SPEC)
    assert files.partial_path(MODEL, SPEC).read_bytes() == CONTENT
    assert files.list_partials()[0].age_s < 1000
    files.demote_to_partial(MODEL, SPEC.name, SPEC.sha256)


def test_a_linked_file_does_not_become_a_partial(files: ModelFiles, tmp_path: Path) -> None:
    source = write_file(tmp_path / "theirs.bin")
    files.import_file(MODEL, source, SPEC)
    files.demote_to_partial(MODEL, SPEC.name, SPEC.sha256)
    assert list(files.model_directory(MODEL).iterdir()) == []
    assert source.read_bytes() == CONTENT
