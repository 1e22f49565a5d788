"""The load clients as a process on a host, and their records so far."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from tests import prefork
from tests.lab import owner
from tests.lab.clients import REQUEST_TIMEOUT_S
from tests.lab.host import Host
from tests.lab.records import AttemptRecord, summarize_attempts
from tests.processes import ROOT, clean_environment

STOP_DEADLINE_S = REQUEST_TIMEOUT_S + 5
POLL_S = 0.05


class LoadGenerator:
    """`with Load(host, url, key, model, file, "--clients", "32") as load:` runs `python -m tests.lab.clients`
    there.
    """

    def __init__(self, host: Host, url: str, key: str, model_id: str, file: Path, *flags: str) -> None:
        self._file = file
        self._read_bytes = 0
        self._records: list[AttemptRecord] = []
        self._command = host.wrap_command(
            sys.executable, "-m", "tests.lab.clients", url,
            "--key", key, "--model", model_id, "--records", str(file), *flags,
        )  # fmt: skip

    def __enter__(self) -> LoadGenerator:
        self._process = prefork.Popen(
            self._command,
            env=clean_environment(**{owner.OWNER_VARIABLE: owner.owner_mark()}),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "begun\n":
            self._process.kill()
            raise RuntimeError(f"the load clients did not start: {line!r}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def records(self) -> list[AttemptRecord]:
        """All attempts that have ended so far."""
        with self._file.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # the last line may still be being written
        self._read_bytes += len(whole)
        self._records += [msgspec.json.decode(line, type=AttemptRecord) for line in whole.splitlines()]
        return [*self._records]

    def wait_for_records(
        self, condition: Callable[[list[AttemptRecord]], object], deadline_s: float = 30.0
    ) -> list[AttemptRecord]:
        """Wait until the records are as `condition` wants them, and return them; AssertionError with a
        summary.
        """
        deadline = time.monotonic() + deadline_s
        while not condition(noted := self.records()):
            assert time.monotonic() < deadline, f"not within {deadline_s} s: {summarize_attempts(noted)}"
            time.sleep(POLL_S)
        return noted

    def finish(self) -> list[AttemptRecord]:
        """Let the requests under way end, and return everything."""
        self._process.terminate()
        assert self._process.wait(STOP_DEADLINE_S) == 0, "the load clients crashed"
        return self.records()
