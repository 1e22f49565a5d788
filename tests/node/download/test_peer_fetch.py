"""What is believed of another node's answer, and how it is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

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
QUICK = DownloadTimeouts(peer_read_timeout_s=0.3)


@dataclass
class Node:
    """A socket that gives one answer to whoever comes, and says no more."""

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
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture
def copying() -> Iterator[PeerFetchContext]:
    peers = PeerClient()
    yield PeerFetchContext("tiny", peers, tuple)
    peers.close()


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def part(start: int, *headers: str, size: int = len(CONTENT)) -> bytes:
    return answer(
        "206 Partial Content",
        f"Content-Length: {size - start}",
        f"Content-Range: bytes {start}-{size - 1}/{size}",
        *headers,
        body=CONTENT[start : start + 1000],
    )


def ask(copying: PeerFetchContext, node: Node, start: int = 0, *, patient: bool = False) -> PeerDownloadBody:
    return open_peer_body(copying, node.source, SPEC, start, QUICK, may_wait=patient)


def test_it_is_asked_directly_with_the_ticket_and_nothing_else(
    copying: PeerFetchContext, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    node.answer = part(500, "X-LLB-Verified: true")
    body = ask(copying, node, 500)
    assert (body.start, body.is_verified) == (500, True)
    body.close()
    [request] = node.requests
    assert request.startswith(f"GET /hop/files/tiny/{SPEC.sha256} HTTP/1.1\r\n")
    headers = dict(line.lower().split(": ", 1) for line in request.split("\r\n")[1:-2])
    assert headers["authorization"] == "bearer good"
    assert headers["range"] == "bytes=500-"
    assert not {"cookie", "x-api-key", "prefer", "proxy-connection"} & set(headers)


def test_a_patient_one_says_so(copying: PeerFetchContext, node: Node) -> None:
    node.answer = part(0)
    ask(copying, node, patient=True).close()
    assert "prefer: wait=1\r\n" in node.requests[0].lower()


@pytest.mark.parametrize(
    ("given", "words", "behind"),
    [
        (answer("416 Range Not Satisfiable", "Content-Length: 0"), "node attic has not got so far", True),
        (answer("404 Not Found", "Content-Length: 0"), "does not have it yet", True),
        (answer("401 Unauthorized", "Content-Length: 0"), "compare the clocks", False),
        (answer("500 Internal Server Error", "Content-Length: 0"), "answers 500", False),
        (answer("302 Found", "Location: http://127.0.0.1:1/", "Content-Length: 0"), "answers 302", False),
        (
            answer("200 OK", "Content-Type: text/html", "Content-Length: 5", body=b"hello"),
            "answers 200",
            False,
        ),
        (part(1), "another part of the file", False),
        (part(0, size=len(CONTENT) + 1), "bytes instead of", False),
        (part(0, "Content-Encoding: gzip"), "encoding", False),
    ],
)
def test_no_other_answer_will_do(
    copying: PeerFetchContext, node: Node, given: bytes, words: str, behind: bool
) -> None:
    node.answer = given
    with pytest.raises(PeerCopyFailed, match=words) as failure:
        ask(copying, node)
    assert failure.value.is_behind == behind
    assert len(node.requests) == 1


@pytest.mark.parametrize(("text", "seconds"), [("2", 2.0), ("3600", 5.0), ("later", 0.0)])
def test_a_busy_one_says_when_to_come_back(
    copying: PeerFetchContext, node: Node, text: str, seconds: float
) -> None:
    node.answer = answer("503 Service Unavailable", f"Retry-After: {text}", "Content-Length: 0")
    with pytest.raises(PeerCopyFailed, match="busy") as failure:
        ask(copying, node)
    assert failure.value.retry_after_s == seconds


def test_what_is_no_model_is_not_taken(copying: PeerFetchContext, node: Node) -> None:
    node.answer = part(0).replace(b"GGUF", b"HTML")
    body = ask(copying, node)
    with pytest.raises(PeerCopyFailed, match="node attic sent something that is not a GGUF file"):
        next(body.iter_chunks())
    body.close()


def test_one_that_falls_silent_is_behind(copying: PeerFetchContext, node: Node) -> None:
    node.answer = part(0)
    body = ask(copying, node)
    with pytest.raises(PeerCopyFailed, match="node attic has nothing new") as failure:
        assert [len(piece) for piece in body.iter_chunks()] == [1000]
    assert failure.value.is_behind
    body.close()


def test_one_that_is_not_there_or_does_not_answer_is_passed_over(
    copying: PeerFetchContext, node: Node
) -> None:
    with pytest.raises(PeerCopyFailed, match="did not answer in time") as failure:
        ask(copying, node)
    assert not failure.value.is_behind
    gone = Node()
    gone.close()
    with pytest.raises(PeerCopyFailed, match="refused") as failure:
        ask(copying, gone)
    assert "127.0.0.1" not in str(failure.value)


def test_an_address_that_is_none_is_passed_over(copying: PeerFetchContext, node: Node) -> None:
    node.address = "http://[::1:/"
    with pytest.raises(PeerCopyFailed):
        ask(copying, node)


def test_a_file_without_a_ticket_is_not_asked_for(copying: PeerFetchContext, node: Node) -> None:
    other = FileSpec(name=NAME, size_bytes=1, sha256="cd" * 32, sources=())
    with pytest.raises(PeerCopyFailed, match="does not offer"):
        open_peer_body(copying, node.source, other, 0, replace(QUICK), may_wait=False)
    assert node.requests == []


def test_after_the_end_nobody_is_asked(copying: PeerFetchContext, node: Node) -> None:
    copying.client.close()
    with pytest.raises(PeerCopyFailed, match="stopping"):
        ask(copying, node)
