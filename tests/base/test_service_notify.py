"""Notices to the service manager arrive at its socket, and nothing happens without one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llb.base import service_notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_notices_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool) -> None:
    address = f"@llb-{tmp_path.name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{address[1:]}" if is_abstract else address)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        service_notify.notify_ready("listens on http://127.0.0.1:8080")
        service_notify.notify_reloading(42)
        service_notify.notify_ready()
        service_notify.notify_stopping(74.5)
        assert [manager.recv(1000).decode().split("\n") for _ in range(4)] == [
            ["READY=1", "STATUS=listens on http://127.0.0.1:8080"],
            ["RELOADING=1", "MONOTONIC_USEC=42"],
            ["READY=1"],
            ["STOPPING=1", "EXTEND_TIMEOUT_USEC=74500000"],
        ]


def test_without_a_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service_notify.notify_ready("ready")
    # The manager has gone.
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    service_notify.notify_ready("ready")
