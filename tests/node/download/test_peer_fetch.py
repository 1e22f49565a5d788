"""Peer fetch: the request to another node, and validation of its response."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from llb.node.download.peer_fetch import (
    PeerClient,
    PeerCopyFailed,
    PeerDownloadBody,
    PeerFetchContext,
    open_peer_body,
)
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec, PeerSource
from tests.node.replica_fixture import CONTENT, NAME

SPEC = FileSpec(name=NAME, size_bytes=len(CONTENT), sha256="ab" * 32, sources=())
SHORT_TIMEOUTS = DownloadTimeouts(peer_read_timeout_s=0.3)


@dataclass
class FakeNode:
    """Server that sends one fixed response to every connection, and nothing more."""

    answer: bytes = b""
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            self.requests.append(sock.recv(65_536).decode())
            sock.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for sock in self._open:
            sock.close()

    @property
    def source(self) -> PeerSource:
        return PeerSource(
            node_id="n1", node_name="attic", address=self.address + "/", tickets={SPEC.sha256: "good"}
        )


@pytest.fixture
def node() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


@pytest.fixture
def context() -> Iterator[PeerFetchContext]:
    client = PeerClient()
    yield PeerFetchContext("tiny", client, tuple)
    client.close()


def build_response(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def build_partial_response(start: int, *headers: str, size: int = len(CONTENT)) -> bytes:
    return build_response(
        "206 Partial Content",
        f"Content-Length: {size - start}",
        f"Content-Range: bytes {start}-{size - 1}/{size}",
        *headers,
        body=CONTENT[start : start + 1000],
    )


def fetch(
    context: PeerFetchContext, node: FakeNode, start: int = 0, *, may_wait: bool = False
) -> PeerDownloadBody:
    return open_peer_body(context, node.source, SPEC, start, SHORT_TIMEOUTS, may_wait=may_wait)


def test_it_is_asked_directly_with_the_ticket_and_nothing_else(
    context: PeerFetchContext, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    node.answer = build_partial_response(500, "X-LLB-Verified: true")
    body = fetch(context, node, 500)
    assert (body.start, body.is_verified) == (500, True)
    body.close()
    [request] = node.requests
    assert request.startswith(f"GET /hop/files/tiny/{SPEC.sha256} HTTP/1.1\r\n")
    headers = dict(line.lower().split(": ", 1) for line in request.split("\r\n")[1:-2])
    assert headers["authorization"] == "bearer good"
    assert headers["range"] == "bytes=500-"
    assert not {"cookie", "x-api-key", "prefer", "proxy-connection"} & set(headers)


def test_a_patient_one_says_so(context: PeerFetchContext, node: FakeNode) -> None:
    node.answer = build_partial_response(0)
    fetch(context, node, may_wait=True).close()
    assert "prefer: wait=1\r\n" in node.requests[0].lower()


@pytest.mark.parametrize(
    ("given", "words", "behind"),
    [
        (
            build_response("416 Range Not Satisfiable", "Content-Length: 0"),
            "node attic has not got so far",
            True,
        ),
        (build_response("404 Not Found", "Content-Length: 0"), "does not have it yet", True),
        (build_response("401 Unauthorized", "Content-Length: 0"), "compare the clocks", False),
        (build_response("500 Internal Server Error", "Content-Length: 0"), "answers 500", False),
        (
            build_response("302 Found", "Location: http://127.0.0.1:1/", "Content-Length: 0"),
            "answers 302",
            False,
        ),
        (
            build_response("200 OK", "Content-Type: text/html", "Content-Length: 5", body=b"hello"),
            "answers 200",
            False,
        ),
        (build_partial_response(1), "another part of the file", False),
        (build_partial_response(0, size=len(CONTENT) + 1), "bytes instead of", False),
        (build_partial_response(0, "Content-Encoding: gzip"), "encoding", False),
        pytest.param(
            build_response("206 Partial Content", f"Content-Range: bytes 0-1/{'9' * 5000}"),
            "another part of the file",
            False,
            id="more digits than a number may have",
        ),
    ],
)
def test_no_other_answer_will_do(
    context: PeerFetchContext, node: FakeNode, given: bytes, words: str, behind: bool
) -> None:
    node.answer = given
    with pytest.raises(PeerCopyFailed, match=words) as failure:
        fetch(context, node)
    assert failure.value.is_behind == behind
    assert len(node.requests) == 1


@pytest.mark.parametrize(("text", "seconds"), [("2", 2.0), ("3600", 5.0), ("later", 0.0)])
def test_a_busy_one_says_when_to_come_back(
    context: PeerFetchContext, node: FakeNode, text: str, seconds: float
) -> None:
    node.answer = build_response("503 Service Unavailable", f"Retry-After: {text}", "Content-Length: 0")
    with pytest.raises(PeerCopyFailed, match="busy") as failure:
        fetch(context, node)
    assert failure.value.retry_after_s == seconds


def test_what_is_no_model_is_not_taken(context: PeerFetchContext, node: FakeNode) -> None:
    node.answer = build_partial_response(0).replace(b"GGUF", b"HTML")
    body = fetch(context, node)
    with pytest.raises(PeerCopyFailed, match="node attic sent something that is not a GGUF file"):
        next(body.iter_chunks())
    body.close()


def test_one_that_falls_silent_is_behind(context: PeerFetchContext, node: FakeNode) -> None:
    node.answer = build_partial_response(0)
    body = fetch(context, node)
    with pytest.raises(PeerCopyFailed, match="node attic has nothing new") as failure:
        assert [len(piece) for piece in body.iter_chunks()] == [1000]
    assert failure.value.is_behind
    body.close()


def test_one_that_is_not_there_or_does_not_answer_is_passed_over(
    context: PeerFetchContext, node: FakeNode
) -> None:
    with pytest.raises(PeerCopyFailed, match="did not answer in time") as failure:
        fetch(context, node)
    assert not failure.value.is_behind
    gone = FakeNode()
    gone.close()
    with pytest.raises(PeerCopyFailed, match="refused") as failure:
        fetch(context, gone)
    assert "127.0.0.1" not in str(failure.value)


def test_an_address_that_is_none_is_passed_over(context: PeerFetchContext, node: FakeNode) -> None:
    node.address = "http://[::1:/"
    with pytest.raises(PeerCopyFailed):
        fetch(context, node)


def test_a_file_without_a_ticket_is_not_asked_for(context: PeerFetchContext, node: FakeNode) -> None:
    other = FileSpec(name=NAME, size_bytes=1, sha256="cd" * 32, sources=())
    with pytest.raises(PeerCopyFailed, match="does not offer"):
        open_peer_body(context, node.source, other, 0, replace(SHORT_TIMEOUTS), may_wait=False)
    assert node.requests == []


def test_after_the_end_nobody_is_asked(context: PeerFetchContext, node: FakeNode) -> None:
    context.client.close()
    with pytest.raises(PeerCopyFailed, match="stopping"):
        fetch(context, node)
