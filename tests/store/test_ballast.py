from __future__ import annotations

from pathlib import Path

import pytest

from llb.base import platform_compat
from llb.store import ballast
from llb.store.ballast import BALLAST_BYTES, Ballast


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes of the disk, as the system tells them; the test may change them."""
    free = [1 << 30]
    monkeypatch.setattr(platform_compat, "free_disk_bytes", lambda _path: free[0])
    return free


def test_it_occupies_blocks(tmp_path: Path, free_bytes: list[int]) -> None:
    held = Ballast(tmp_path / "ballast")
    held.fill()
    status = held.path.stat()
    assert status.st_size == BALLAST_BYTES
    assert status.st_blocks * 512 >= BALLAST_BYTES
    assert status.st_mode & 0o777 == 0o600


def test_a_part_is_released_on_a_full_disk_and_taken_back(tmp_path: Path, free_bytes: list[int]) -> None:
    held = Ballast(tmp_path / "ballast")
    held.fill()
    free_bytes[0] = 4096
    with held.released():
        assert held.size_bytes == BALLAST_BYTES - ballast.RELEASE_BYTES + 4096
    assert held.size_bytes == BALLAST_BYTES
    free_bytes[0] = 1 << 30
    with held.released():
        assert held.size_bytes == BALLAST_BYTES


def test_a_quota_that_the_disk_does_not_show_gets_everything(tmp_path: Path, free_bytes: list[int]) -> None:
    held = Ballast(tmp_path / "ballast")
    held.fill()
    assert held.release() == 0
    assert held.release(everything=True) == BALLAST_BYTES
    assert held.size_bytes == 0
    assert held.release() == 0


def test_the_last_bytes_of_a_disk_are_not_taken(tmp_path: Path, free_bytes: list[int]) -> None:
    free_bytes[0] = BALLAST_BYTES + 1
    held = Ballast(tmp_path / "ballast")
    held.fill()
    assert held.size_bytes == 0


def test_a_small_disk_gives_a_small_part(
    tmp_path: Path, free_bytes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_compat, "total_disk_bytes", lambda _path: 8 << 20)
    free_bytes[0] = 7 << 20
    held = Ballast(tmp_path / "ballast")
    held.fill()
    assert held.size_bytes == 1 << 20


def test_a_system_without_fallocate_writes_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_compat, "_posix_fallocate", None)
    held = Ballast(tmp_path / "ballast")
    held.fill()
    assert held.path.stat().st_blocks * 512 >= BALLAST_BYTES


def test_a_directory_in_its_place_is_no_error(tmp_path: Path, free_bytes: list[int]) -> None:
    (tmp_path / "ballast").mkdir()
    held = Ballast(tmp_path / "ballast")
    held.fill()
    free_bytes[0] = 0
    with held.released():
        pass
