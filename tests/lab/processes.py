"""The product and the Hub's stand-in as processes on a host of the laboratory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from llb.base.runfile import RunInfo
from tests.hub import HubProcess
from tests.lab import owner
from tests.lab.host import Host, HostTransport
from tests.processes import LlbProcess


class LabLlbProcess(LlbProcess):
    """`python -m llb` on a host and one core, always on the same port; `http` speaks to it as a program on
    that host does.
    """

    def __init__(self, host: Host, home: Path, *flags: str, **extra_environment: str) -> None:
        super().__init__(
            home,
            "--host", host.listen_address, "--port", str(host.port), "--name", host.name, *flags,
            **{owner.OWNER_VARIABLE: owner.owner_mark(), **extra_environment},
        )  # fmt: skip
        self.host = host
        self.log = home.with_name(home.name + ".log")

    def start(self) -> LabLlbProcess:
        super().start()
        return self

    def __enter__(self) -> LabLlbProcess:
        return self.start()

    def _build_command(self) -> list[str]:
        # A core each: engines that share their cores wait for each other's threads in busy loops, for
        # seconds.
        cores = sorted(os.sched_getaffinity(0))
        core = cores[self.host.number % len(cores)]
        return self.host.wrap_command("taskset", "--cpu-list", str(core), *super()._build_command())

    def _create_transport(self, _info: RunInfo, /) -> httpx.BaseTransport:
        return HostTransport(self.host)


class LabHubProcess(HubProcess):
    """The Hub's stand-in on a host: `python -m tests.hub` with these arguments."""

    def __init__(self, host: Host, *arguments: str) -> None:
        super().__init__("--host", host.address, *arguments)
        self.host = host

    def __enter__(self) -> LabHubProcess:
        super().__enter__()
        return self

    def _build_command(self) -> list[str]:
        return self.host.wrap_command(*super()._build_command())

    def _build_environment(self) -> dict[str, str]:
        return {**super()._build_environment(), owner.OWNER_VARIABLE: owner.owner_mark()}

    def control(self, **order: Any) -> dict[str, Any]:
        with self.host.enter_network():
            return super().control(**order)

    @property
    def bytes_sent(self) -> int:
        """Body bytes of files, over all connections since the start."""
        return int(self.control()["bytes_sent"])
