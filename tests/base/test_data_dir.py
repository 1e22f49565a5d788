from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from llb.base import data_dir, platform_compat
from llb.base.data_dir import MODELS_LOCK_NAME, acquire_lock
from llb.errors import SetupError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dir, "LOCK_RETRY_DELAY_S", 0.0)


def test_two_homes_cannot_share_a_models_directory(tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    first = acquire_lock(tmp_path / "a", models_dir)
    with pytest.raises(SetupError) as refused:
        acquire_lock(tmp_path / "b", models_dir)
    assert f"process {os.getpid()}, home {tmp_path / 'a'} on {socket.gethostname()}" in str(refused.value)
    assert "--models-dir" in str(refused.value)
    first.close()
    first.close()
    # Nothing stays locked by the refused one.
    acquire_lock(tmp_path / "b", models_dir).close()
    acquire_lock(tmp_path / "a", models_dir).close()


@pytest.mark.parametrize("way", ["default", "link", "dots"])
def test_the_directory_counts_not_its_name(tmp_path: Path, way: str) -> None:
    models_dir = tmp_path / "a" / "models"
    names = {
        "default": models_dir,
        "link": tmp_path / "link",
        "dots": tmp_path / "a" / "models" / ".." / "models",
    }
    (tmp_path / "link").symlink_to(models_dir)
    held = acquire_lock(tmp_path / "a", models_dir)
    with pytest.raises(SetupError, match="is used by another llb"):
        acquire_lock(tmp_path / "b", names[way])
    held.close()


def test_one_home_is_named_first(tmp_path: Path) -> None:
    held = acquire_lock(tmp_path / "a", tmp_path / "models")
    with pytest.raises(SetupError, match=r"Another llb \(process \d+\) is using"):
        acquire_lock(tmp_path / "a", tmp_path / "models")
    held.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_locked_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    try_lock_file = platform_compat.try_lock_file

    def refuse(path: Path, note: str = "") -> platform_compat.FileLock | None:
        if path.name == MODELS_LOCK_NAME:
            raise OSError(number, os.strerror(number))
        return try_lock_file(path, note)

    monkeypatch.setattr(platform_compat, "try_lock_file", refuse)
    acquire_lock(tmp_path / "a", tmp_path / "models").close()
    assert os.strerror(number) in caplog.text


def test_a_models_directory_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(SetupError, match=r"The models directory .* cannot be used: .*--models-dir"):
        acquire_lock(tmp_path / "a", tmp_path / "models")
    acquire_lock(tmp_path / "a", tmp_path / "other").close()
