"""Requests and responses of the front: heads that are known, heads of responses, framing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llb.accounts.authenticator import Authenticator
from llb.api.connection.http_head import parse_request_head
from llb.api.responses import PassthroughResponse
from llb.front.request import MAX_BODY_BYTES, MAX_TEMPLATES, Admission, FrontRequest, FrontRoute, KnownHead
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import OLLAMA_PORT_KEY_ID, Role

ROUTE = FrontRoute(SimpleNamespace(ctx=SimpleNamespace()), {})


def test_the_id_of_a_known_head_may_be_another_valid_one() -> None:
    """Whatever else differs, an id that is no valid one too, is another head."""
    for lines in (
        b"X-Request-ID: %b\r\nContent-Length: %b\r\n",
        b"content-length: %b\r\nx-request-id:%b \r\n",
    ):
        is_id_first = lines.startswith(b"X")

        def head(
            request_id: bytes,
            length: bytes,
            lines: bytes = lines,
            is_id_first: bool = is_id_first,
            last: bytes = b"Via: a\r\n",
        ) -> bytes:
            values = (request_id, length) if is_id_first else (length, request_id)
            return b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + lines % values + last + b"\r\n"

        raw = head(b"first", b"12")
        known = KnownHead(raw, "/v1/messages", parse_request_head(raw[:-4]).header_map(), ROUTE)
        assert known.headers.get("x-request-id") is None
        for request_id in (b"first", b"2", b"a.B_c-9", b"x" * 64):
            for length in (b"12", b"3", b"65536"):
                data = head(request_id, length)
                end = len(data)
                assert known.match(data + b"x") == (end, end + int(length), request_id.decode())
        for request_id in (
            b"",
            b"x" * 65,
            b"a b",
            b"a:b",
            b"\xe4",
            b"a\r\nVia: b",
            b"a\r\nContent-Length: 3",
        ):
            assert known.match(head(request_id, b"12")) is None
        for length in (
            b"",
            b"-1",
            b"1x",
            b"65537",
            b"1" * 20,
            b"3\r\nContent-Length: 4",
            b"3\r\nX-Request-ID: 4",
        ):
            assert known.match(head(b"first", length)) is None
        assert known.match(head(b"first", b"12", last=b"Via: b\r\n")) is None
        assert known.match(head(b"first", b"12")[:-2]) is None
    # Two ids, or an invalid one, are not separated from the known head.
    for given in (b"X-Request-ID: a\r\nX-Request-ID: b\r\n", b"X-Request-ID: a b\r\n"):
        raw = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\n" + given + b"Content-Length: 3\r\n\r\n"
        known = KnownHead(raw, "/v1/messages", parse_request_head(raw[:-4]).header_map(), ROUTE)
        assert known.match(raw) == (len(raw), len(raw) + 3, None)
        assert known.match(raw.replace(b"D: a", b"D: c")) is None


class Connection:
    """Notes what is written, and whether at the pace of the client."""

    conn_info = transport = app = None

    def __init__(self) -> None:
        self.paced: list[bytes] = []
        self.at_once: list[bytes] = []

    def note_principal(self, _principal: Any) -> None: ...

    async def write(self, data: bytes) -> None:
        self.paced.append(data)

    def write_now(self, data: bytes) -> None:
        self.at_once.append(data)

    def write_chunk(self, _data: bytes) -> bool:
        return True

    def write_frame(self, _events: bytes, _frame: bytes, _is_single: bool) -> bool:
        return True

    async def wait_writable(self) -> None: ...


def known_head(target: str = "/v1/messages") -> KnownHead:
    raw = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n" % target.encode()
    return KnownHead(raw, target, parse_request_head(raw[:-4]).header_map(), ROUTE)


def request_of(
    connection: Connection, head: KnownHead | None = None, request_id: str | None = "r-1"
) -> FrontRequest:
    def finish_head(request: FrontRequest, response: Any) -> None:
        response.headers["x-request-id"] = request.ctx.request_id or "made"

    return FrontRequest(connection, head or known_head(), b"abc", finish_head, request_id)


def a_head(headers: dict[str, str] | None = None) -> PassthroughResponse:
    return PassthroughResponse(headers=headers or {}, content_type="application/json")


async def test_a_response_in_one_piece_has_its_length() -> None:
    connection = Connection()
    response = await request_of(connection).respond(a_head())
    await response.send(b"{}", end_stream=True)
    [sent] = connection.paced
    assert sent.endswith(b"\r\n\r\n{}")
    assert b"content-length: 2\r\n" in sent.lower()
    assert b"x-request-id: r-1\r\n" in sent.lower()
    assert response.is_complete


async def test_a_response_in_pieces_is_chunked_and_its_head_comes_with_the_first() -> None:
    connection = Connection()
    request = request_of(connection)
    response = await request.respond(a_head())
    assert connection.paced == []
    assert response.open_pipe() is None
    await response.send(b"abc")
    assert response.open_pipe() is connection
    # A piece of nothing would end the body.
    await response.send(b"")
    await response.send(b"d" * 16)
    await response.eof()
    head, *rest = connection.paced
    assert b"transfer-encoding: chunked\r\n" in head.lower()
    assert head.endswith(b"\r\n\r\n3\r\nabc\r\n")
    assert rest == [b"10\r\n" + b"d" * 16 + b"\r\n", b"0\r\n\r\n"]
    assert response.is_complete
    assert response.open_pipe() is None


async def test_a_callback_writes_at_once() -> None:
    connection = Connection()
    response = request_of(connection).respond_now(a_head())
    response.send_now(b"a")
    response.send_now(b"", end_stream=True)
    assert connection.paced == []
    assert connection.at_once[1] == b"0\r\n\r\n"


async def test_the_head_of_equal_responses_is_made_once_with_the_id_of_each() -> None:
    connection, head = Connection(), known_head()
    made = 0

    def make_head() -> PassthroughResponse:
        nonlocal made
        made += 1
        return a_head({"x-llb-node": "attic"})

    for request_id in ("r-1", "r-2"):
        request_of(connection, head, request_id).answer_alike("attic", make_head, b"{}")
    request = request_of(connection, head, "r-3")
    request.respond_alike("attic", make_head).send_now(b"x")
    assert made == 1
    for sent, line in zip(connection.at_once, (b": r-1\r\n", b": r-2\r\n", b": r-3\r\n"), strict=True):
        assert b"x-request-id" + line in sent.lower()
        assert b"x-llb-node: attic\r\n" in sent.lower()
    assert request.response is not None
    assert not request.response.is_complete


def test_the_heads_that_are_remembered_are_bounded() -> None:
    connection, head = Connection(), known_head()
    for number in range(MAX_TEMPLATES + 1):
        request_of(connection, head).answer_alike(number, a_head, b"")
    assert len(head.templates) == 1


def test_the_first_of_equal_parameters_counts() -> None:
    request = request_of(Connection(), known_head("/v1/messages?beta=true&beta=false&a=%20"))
    assert request.args == {"beta": "true", "a": " "}
    assert (request.path, request.query_string) == ("/v1/messages", "beta=true&beta=false&a=%20")


def test_a_body_over_the_bound_is_no_match() -> None:
    raw = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    head = known_head()
    assert head.match(raw % MAX_BODY_BYTES) is not None
    assert head.match(raw % (MAX_BODY_BYTES + 1)) is None


# --- admission -----------------------------------------------------------------------------------------


class Keys:
    """Authenticator that has looked a key up, and knows one node."""

    generation = 1

    def __init__(self) -> None:
        self.lifetime_s = 3600.0
        self.node: Principal | None = NODE

    def trusted_s(self, _key: str) -> float:
        return self.lifetime_s

    def authenticate_node(self, _credential: str) -> Principal | None:
        return self.node


KEY = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)
NODE = Principal(kind=PrincipalKind.NODE, id="node", role=Role.USER)


def admitted(
    principal: Principal | None, *, credentials: tuple[str, ...] = ("sk-1",), is_proxy: bool = False
) -> FrontRequest:
    """A request that was authorised."""
    request = request_of(Connection())
    client = SimpleNamespace(is_trusted_proxy=is_proxy)
    request.ctx.client, request.ctx.credentials = cast(Any, client), credentials
    request.ctx.principal = principal
    return request


def test_an_admission_holds_until_an_account_changes_or_its_time_is_over() -> None:
    keys = Keys()
    first = admitted(KEY)
    admission = Admission.of(first, cast(Authenticator, keys))
    assert admission is not None
    later = request_of(Connection())
    assert admission.admit(later)
    for name in ("client", "credentials", "principal"):
        assert getattr(later.ctx, name) is getattr(first.ctx, name)
    keys.generation = 2
    assert not admission.admit(later)
    keys.lifetime_s = 0.0
    expired = Admission.of(first, cast(Authenticator, keys))
    assert expired is not None
    assert not expired.admit(later)


def test_the_credential_of_a_node_is_compared_each_time() -> None:
    keys = Keys()
    admission = Admission.of(admitted(NODE), cast(Authenticator, keys))
    assert admission is not None
    request = request_of(Connection())
    assert admission.admit(request)
    for node in (None, replace(NODE, id="another")):
        keys.node = node
        assert not admission.admit(request)


@pytest.mark.parametrize(
    "request_",
    [
        admitted(None),
        admitted(replace(KEY, kind=PrincipalKind.SESSION)),
        admitted(replace(KEY, must_change_password=True)),
        admitted(replace(KEY, id=OLLAMA_PORT_KEY_ID)),
        admitted(KEY, credentials=("sk-1", "sk-2")),
        admitted(KEY, is_proxy=True),
    ],
    ids=["anonymous", "session", "default password", "Ollama port", "two credentials", "proxy"],
)
def test_others_are_examined_each_time(request_: FrontRequest) -> None:
    assert Admission.of(request_, cast(Authenticator, Keys())) is None
