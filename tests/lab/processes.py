"""The product and the Hub's stand-in as processes on a host of the laboratory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from llb.base.runfile import RunInfo
from tests.hub import HubProcess
from tests.lab import owner
from tests.lab.host import Host, Inside
from tests.processes import LlbProcess


class LabLlb(LlbProcess):
    """`python -m llb` on a host and one core, always on the same port; `http` speaks to it as a program on that host does."""

    def __init__(self, host: Host, home: Path, *flags: str, **extra_environment: str) -> None:
        super().__init__(
            home,
            "--host", host.listen, "--port", str(host.port), "--name", host.name, *flags,
            **{owner.VARIABLE: owner.mark(), **extra_environment},
        )  # fmt: skip
        self.host = host
        self.log = home.with_name(home.name + ".log")

    def start(self) -> LabLlb:
        super().start()
        return self

    def __enter__(self) -> LabLlb:
        return self.start()

    def _command(self) -> list[str]:
        # A core each: engines that share their cores wait for each other's threads in busy loops, for seconds.
        cores = sorted(os.sched_getaffinity(0))
        core = cores[self.host.number % len(cores)]
        return self.host.command("taskset", "--cpu-list", str(core), *super()._command())

    def _transport(self, _info: RunInfo, /) -> httpx.BaseTransport:
        return Inside(self.host)


class LabHub(HubProcess):
    """The Hub's stand-in on a host: `python -m tests.hub` with these arguments."""

    def __init__(self, host: Host, *arguments: str) -> None:
        super().__init__("--host", host.address, *arguments)
        self.host = host

    def __enter__(self) -> LabHub:
        super().__enter__()
        return self

    def _command(self) -> list[str]:
        return self.host.command(*super()._command())

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), owner.VARIABLE: owner.mark()}

    def control(self, **order: Any) -> dict[str, Any]:
        with self.host.inside():
            return super().control(**order)

    @property
    def bytes_sent(self) -> int:
        """Body bytes of files, over all connections since the start."""
        return int(self.control()["bytes_sent"])
