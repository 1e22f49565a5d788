"""Segments: bytes that arrived before their turn, what another connection takes over, what is found again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.node.download.parallel.segments import Segment, SegmentStore
from llb.node.download.partial_file import PartialFile
from llb.node.files import segment_file_name
from llb.wire import FileSpec

CONTENT = b"GGUF" + bytes(range(96))
SPEC = FileSpec(name="m.gguf", size_bytes=len(CONTENT), sha256="ab" * 32, sources=())


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(SPEC, tmp_path)


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[PartialFile]:
    made = PartialFile(tmp_path / "partial", len(CONTENT))
    made.open()
    list(made.rehash())
    yield made
    made.close()


def fill(segment: Segment, until: int | None = None) -> None:
    segment.append(CONTENT[segment.start : segment.limit if until is None else until])


def leave(directory: Path, start: int, end: int) -> Path:
    """Make the segment of a process that was killed."""
    path = directory / segment_file_name(SPEC, start)
    path.write_bytes(CONTENT[start:end])
    return path


def ranges(store: SegmentStore) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in store._segments]


# --- one segment -------------------------------------------------------------------------------------


def test_nothing_is_written_beyond_the_limit(store: SegmentStore) -> None:
    segment = store.add_next(10, 20, 100)
    assert segment is not None
    segment.append(CONTENT[10:25])
    assert (segment.is_full, segment.occupied_until) == (False, 30)
    segment.append(CONTENT[25:90])
    segment.append(CONTENT[30:90])
    assert (segment.is_full, segment.end) == (True, 30)
    segment.finish()
    segment.finish()
    assert segment.path.read_bytes() == CONTENT[10:30]


def test_half_of_what_is_missing_goes_to_another_connection(store: SegmentStore) -> None:
    segment = store.add_next(0, 100, 100)
    assert segment is not None
    fill(segment, 20)
    half = store.add_half(40)
    assert half is not None
    assert (segment.limit, half.start, half.limit) == (60, 60, 100)
    # What comes for the other half after that is left to it.
    segment.append(CONTENT[20:100])
    assert (segment.end, segment.is_full) == (60, True)
    # The half is now the largest, and too small to be cut again.
    assert store.add_half(21) is None
    assert store.add_half(20) is not None


def test_a_segment_that_was_given_up_occupies_only_what_it_has(store: SegmentStore) -> None:
    segment = store.add_next(0, 50, 100)
    assert segment is not None
    fill(segment, 10)
    following = store.add_next(0, 50, 100)
    assert following is not None
    assert following.start == 50
    segment.finish()
    gap = store.add_next(0, 100, 100)
    assert gap is not None
    assert (gap.start, gap.limit) == (10, 50)


# --- the store ---------------------------------------------------------------------------------------


def test_no_range_is_given_twice_or_beyond_the_window(store: SegmentStore) -> None:
    given = []
    while (segment := store.add_next(20, 15, 50)) is not None:
        given.append((segment.start, segment.limit))
    assert given == [(20, 35), (35, 50), (50, 65), (65, 80)]
    last = store.add_next(80, 90, 50)
    assert last is not None
    assert (last.start, last.limit) == (80, 100)
    assert store.add_next(20, 15, 500) is None


def test_what_comes_next_is_moved_into_the_partial_file(
    store: SegmentStore, partial: PartialFile, tmp_path: Path
) -> None:
    first, second, third = (store.add_next(0, 30, 100) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    for segment in (second, third):
        fill(segment)
        segment.finish()
    # A hole is in front of them.
    fill(first, 10)
    assert sum(store.move_to(partial)) == 10
    assert store.count_bytes_after(partial.have_bytes) == 60
    first.append(CONTENT[10:30])
    first.finish()
    assert sum(store.move_to(partial)) == 80
    assert partial.have_bytes == 90
    assert ranges(store) == []
    assert [path.name for path in tmp_path.iterdir()] == ["partial"]
    partial.finish_chunk()
    assert (tmp_path / "partial").read_bytes() == CONTENT[:90]


def test_a_segment_that_another_program_has_cut_is_fetched_again(
    store: SegmentStore, partial: PartialFile
) -> None:
    segment = store.add_next(0, 60, 100)
    assert segment is not None
    fill(segment)
    segment.finish()
    os.truncate(segment.path, 25)
    assert sum(store.move_to(partial)) == 25
    following = store.add_next(partial.have_bytes, 60, 100)
    assert following is not None
    assert following.start == 25


def test_the_segments_of_a_killed_process_are_found_by_their_names(
    tmp_path: Path, store: SegmentStore
) -> None:
    leave(tmp_path, 40, 60)
    leave(tmp_path, 10, 20)
    useless = [leave(tmp_path, 70, 70), leave(tmp_path, 90, 100)]
    useless[1].write_bytes(bytes(20))
    (tmp_path / segment_file_name(SPEC, 80)).symlink_to(tmp_path / "elsewhere")
    others = ["m.gguf", "m.gguf.at5.0123456789abcdef.partial", f"m.gguf.at05.{SPEC.sha256[:16]}.partial"]
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    store.find_existing()
    assert ranges(store) == [(10, 20), (40, 60)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, *(segment.path.name for segment in store._segments)]
    )
    assert (store.is_reached_by(9), store.is_reached_by(10)) == (False, True)
    # The hole between them is the next range, then what follows.
    gap, rest = store.add_next(20, 50, 100), store.add_next(20, 50, 100)
    assert gap is not None
    assert rest is not None
    assert (gap.start, gap.limit, rest.start, rest.limit) == (20, 40, 60, 100)


def test_overlapping_segments_are_counted_once(tmp_path: Path, store: SegmentStore) -> None:
    leave(tmp_path, 10, 50)
    leave(tmp_path, 20, 30)
    leave(tmp_path, 45, 60)
    store.find_existing()
    assert store.count_bytes_after(0) == 50
    assert store.count_bytes_after(55) == 5
    assert store.count_bytes_after(60) == 0
    # Nor is what lies in the longer one requested again.
    following = store.add_next(10, 20, 100)
    assert following is not None
    assert following.start == 60


def test_a_discarded_download_leaves_no_segment(tmp_path: Path, store: SegmentStore) -> None:
    leave(tmp_path, 10, 50)
    (tmp_path / "m.gguf").write_bytes(b"x")
    store.discard_all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    SegmentStore(SPEC, tmp_path / "nothing").discard_all()
