"""Destination of the log: a private file that rotates, or the journal with its levels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.base.logs import log_output
from llb.base.logs.log_output import LogOutput
from llb.base.logs.log_setup import JournalFormatter
from llb.errors import SetupError


def record_of(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("llb.test", level, __file__, 1, text, (), None)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[LogOutput]:
    output = LogOutput(tmp_path / "logs" / "llb.log")
    yield output
    output.handler.close()


def test_a_log_file_is_private_and_rotates(log_file: LogOutput, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_file.path is not None
    assert isinstance(log_file.handler, log_output.LogFile)
    assert str(log_file.path) in str(log_file.description)
    log_file.handler.maxBytes = 100
    for number in range(20):
        log_file.handler.emit(record_of(f"line {number} {'.' * 80}"))
    files = sorted(path.name for path in log_file.path.parent.iterdir())
    assert files == ["llb.log", *(f"llb.log.{number}" for number in range(1, log_output.ROTATED_FILES + 1))]
    assert {path.stat().st_mode & 0o777 for path in log_file.path.parent.iterdir()} == {0o600}
    assert log_file.path.read_text().startswith("line 19 ")


def test_a_file_that_logrotate_has_moved_is_opened_again(log_file: LogOutput) -> None:
    assert log_file.path is not None
    log_file.handler.emit(record_of("before"))
    moved = log_file.path.rename(log_file.path.with_suffix(".old"))
    log_file.reopen()
    log_file.handler.emit(record_of("after"))
    assert (moved.read_text(), log_file.path.read_text()) == ("before\n", "after\n")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="--log-file"):
        LogOutput(tmp_path)


def test_the_journal_is_recognised_by_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        status = os.fstat(stream.fileno())
        assert LogOutput(None).description is None
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert "journal" in str(LogOutput(None).description)
        # Of a parent, whose standard error was replaced.
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        assert LogOutput(None).description is None


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.WARNING, 4), (logging.CRITICAL, 3)]
)
def test_each_line_in_the_journal_has_its_level(level: int, priority: int) -> None:
    record = record_of("failed", level)
    try:
        raise ValueError("no")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    lines = JournalFormatter().format(record).splitlines()
    assert lines[0] == f"<{priority}>llb.test: failed"
    assert len(lines) > 1
    assert all(line.startswith(f"<{priority}>") for line in lines)
