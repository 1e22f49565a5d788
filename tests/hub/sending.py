"""Sends responses, with the faults that are active at each chunk."""

from __future__ import annotations

import sys
import threading
import time

from tests.hub.content import Content
from tests.hub.faults import Fault, Faults
from tests.hub.http import Connection, PeerDisconnected, ResponseRaised, parse_range
from tests.hub.record import RecordedRequest, RequestJournal

MAX_CHUNK_BYTES = 1 << 20
POLL_S = 0.02


class ResponseSender:
    """Sends responses; each wait ends when the peer closes or `stopping` is set."""

    def __init__(self, faults: Faults, journal: RequestJournal, stopping: threading.Event) -> None:
        self._faults = faults
        self._journal = journal
        self._stopping = stopping
        self._total_rate_lock = threading.Lock()
        self._total_due = 0.0

    def apply_faults_before(self, connection: Connection, request: RecordedRequest) -> None:
        if (fault := self.trigger_fault("latency", request)) is not None:
            until = time.monotonic() + float(fault.params["seconds"])
            while (left := until - time.monotonic()) > 0:
                self._pause(connection, min(left, POLL_S))
        if (fault := self.trigger_fault("black_hole", request)) is not None:
            self._hold_silent(connection, fault)
        if (fault := self.trigger_fault("answer", request)) is not None:
            raise ResponseRaised(
                fault.params["status"], str(fault.params["body"]).encode(), fault.params["headers"]
            )

    def _hold_silent(self, connection: Connection, fault: Fault) -> None:
        """Stall until the fault is cleared or the peer closes; then close the connection."""
        while not fault.is_cleared:
            self._pause(connection, POLL_S)
        raise PeerDisconnected

    def _pause(self, connection: Connection, wait_s: float) -> None:
        if self._stopping.is_set() or connection.peer_closed(wait_s):
            raise PeerDisconnected

    def _find_fault(self, kind: str, request: RecordedRequest) -> Fault | None:
        return self._faults.find(kind, request.on, request.repo, request.file)

    def trigger_fault(self, kind: str, request: RecordedRequest) -> Fault | None:
        return self._faults.trigger(kind, request.on, request.repo, request.file)

    def send_response(
        self, connection: Connection, request: RecordedRequest, response: ResponseRaised
    ) -> None:
        headers = self._apply_header_faults(
            request, {**response.headers, "Content-Length": str(len(response.body))}
        )
        request.status = response.status
        connection.send_head(response.status, headers)
        if request.method != "HEAD":
            connection.sock.sendall(response.body)

    def _apply_header_faults(self, request: RecordedRequest, headers: dict[str, str]) -> dict[str, str]:
        fault = self._find_fault("omit_headers", request)
        if fault is None or not any(name.lower() in fault.params["names"] for name in headers):
            return headers
        self._faults.count_occurrence(fault)
        return {name: value for name, value in headers.items() if name.lower() not in fault.params["names"]}

    def send_content(
        self, connection: Connection, request: RecordedRequest, content: Content, headers: dict[str, str]
    ) -> None:
        size = content.size
        try:
            span = parse_range(request.range, size)
        except IndexError:
            raise ResponseRaised(416, headers={"Content-Range": f"bytes */{size}"}) from None
        if span is not None and self.trigger_fault("ignore_range", request) is not None:
            span = None
        start, end = span or (0, size)
        headers = {
            **headers,
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if span is not None:
            shown_start, shown_end, shown_size = start, end, size
            if (fault := self.trigger_fault("wrong_range", request)) is not None:
                shown_start += fault.params["start"]
                shown_end += fault.params["start"]
                shown_size += fault.params["total"]
            headers["Content-Range"] = f"bytes {shown_start}-{shown_end - 1}/{shown_size}"
        request.range_start = start
        request.status = 200 if span is None else 206
        connection.send_head(request.status, self._apply_header_faults(request, headers))
        if request.method != "HEAD":
            self._send_body(connection, request, content, start, end)

    def _send_body(
        self, connection: Connection, request: RecordedRequest, content: Content, start: int, end: int
    ) -> None:
        file = content.path.open("rb") if content.path is not None else None
        due = 0.0
        try:
            while (at := start + request.bytes_sent) < end:
                stop = min(self._apply_break_faults(connection, request, start), end, at + MAX_CHUNK_BYTES)
                throttle = self._find_fault("throttle", request)
                if throttle is not None:
                    rate = float(throttle.params["bytes_per_s"])
                    stop = min(stop, at + max(1, min(65_536, int(rate / 20))))
                corrupt = self._find_fault("corrupt", request)
                broken_at = self._corrupt_offset(corrupt, content)
                if corrupt is not None and at <= broken_at < stop and self._faults.count_occurrence(corrupt):
                    piece = bytearray(content.read(at, stop - at))
                    piece[broken_at - at] ^= 0xFF
                    connection.sock.sendall(piece)
                elif file is not None:
                    connection.sock.sendfile(file, at, stop - at)
                else:
                    connection.sock.sendall(content.view()[at:stop])
                self._journal.add_bytes_sent(request, stop - at)
                if throttle is not None:
                    due = self._pace(connection, throttle, (stop - at) / rate, due)
        finally:
            if file is not None:
                file.close()

    def _apply_break_faults(self, connection: Connection, request: RecordedRequest, start: int) -> int:
        """Apply the faults at this offset; returns the offset of the next one at the earliest."""
        at, stop = start + request.bytes_sent, sys.maxsize
        for kind in ("drop", "stall", "short"):
            fault = self._find_fault(kind, request)
            if fault is None:
                continue
            limit = start + int(fault.params["after"])
            if at < limit:
                stop = min(stop, limit)
            elif self._faults.count_occurrence(fault):
                self._break_connection(connection, kind, fault)
        return stop

    @staticmethod
    def _corrupt_offset(corrupt: Fault | None, content: Content) -> int:
        if corrupt is None:
            return -1
        return content.size // 2 if corrupt.params["at"] is None else int(corrupt.params["at"])

    def _break_connection(self, connection: Connection, kind: str, fault: Fault) -> None:
        if kind == "stall":
            while not fault.is_cleared:
                self._pause(connection, POLL_S)
            return  # cleared: the body goes on
        if kind == "drop":
            connection.reset()
        raise PeerDisconnected

    def _pace(self, connection: Connection, throttle: Fault, cost_s: float, due: float) -> float:
        """Wait until the last chunk has taken `cost_s`, by the clock of the connection or the shared one."""
        if throttle.params["total"]:
            with self._total_rate_lock:
                self._total_due = due = max(self._total_due, time.monotonic()) + cost_s
        else:
            due = max(due, time.monotonic() - POLL_S) + cost_s
        while (left := due - time.monotonic()) > 0 and not throttle.is_cleared:
            self._pause(connection, min(left, POLL_S))
        return due
