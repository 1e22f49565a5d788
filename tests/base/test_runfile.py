"""Run file: a command trusts the server of its home only while the server holds the lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llb.base import platform_compat, runfile
from llb.base.runfile import RunInfo


@pytest.fixture
def info() -> RunInfo:
    """What a server in this process writes. (The process that collects the tests does not run them.)"""
    return RunInfo(pid=os.getpid(), host="0.0.0.0", port=8080, token="llb-local-x")


def test_a_running_server_is_found(tmp_path: Path, info: RunInfo) -> None:
    lock = platform_compat.try_lock_file(tmp_path / runfile.LOCK_NAME)
    assert lock is not None
    runfile.write_run_info(tmp_path, info)
    assert runfile.find_running_server(tmp_path) == info
    assert (tmp_path / runfile.RUN_FILE_NAME).stat().st_mode & 0o077 == 0
    lock.close()


def test_what_a_killed_server_left_is_not_trusted(tmp_path: Path, info: RunInfo) -> None:
    lock = platform_compat.try_lock_file(tmp_path / runfile.LOCK_NAME)
    assert lock is not None
    runfile.write_run_info(tmp_path, info)
    lock.close()
    assert runfile.find_running_server(tmp_path) is None


def test_a_file_of_an_earlier_server_is_not_taken_for_that_of_the_present_one(
    tmp_path: Path, info: RunInfo
) -> None:
    lock = platform_compat.try_lock_file(tmp_path / runfile.LOCK_NAME)
    assert lock is not None
    runfile.write_run_info(tmp_path, RunInfo(pid=info.pid + 1, host="127.0.0.1", port=1, token="t"))
    assert runfile.find_running_server(tmp_path) is None
    lock.close()


def test_nothing_ran_yet(tmp_path: Path) -> None:
    assert runfile.find_running_server(tmp_path) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"),
     ("192.0.2.1", "http://192.0.2.1:8080")],
)  # fmt: skip
def test_where_this_machine_reaches_it(host: str, url: str) -> None:
    assert RunInfo(pid=1, host=host, port=8080, token="t").url == url
