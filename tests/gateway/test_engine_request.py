"""Request to an engine of this host, or to the hop route of another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import pytest
from msgspec.structs import replace

from llb.engine.lease import Lease
from llb.engine.watch_policy import EngineSpeed
from llb.gateway.attempt_context import AttemptContext
from llb.gateway.engine_request import begin_engine_request, target_of
from llb.gateway.inference_call import InferenceCall
from llb.policy.keep_alive import KeepAlive
from tests.gateway.gateway_fixture import FakeLease, make_call


class Requests:
    """Notes what would be sent."""

    def __init__(self, speed: EngineSpeed) -> None:
        self.sent: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}
        sender = SimpleNamespace(begin_request=self._begin_request)
        self.context = cast(
            AttemptContext,
            SimpleNamespace(
                http_client=sender,
                node_connections=sender,
                performance=SimpleNamespace(speed_of=lambda *_: speed),
                get_load_timeout_s=lambda: 90.0,
            ),
        )

    def _begin_request(self, *arguments: Any, **options: Any) -> None:
        self.sent, self.options = arguments, options

    def begin(self, call: InferenceCall, lease: FakeLease | None = None) -> None:
        node = cast(Any, SimpleNamespace(id="a"))
        begin_engine_request(
            self.context, call, node, cast(Lease | None, lease), b"/v1/chat/completions", b"{}", 7.0
        )

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.sent[2].decode()).query, strict_parsing=True))


def test_the_leased_engine_is_asked_at_its_address_with_its_key() -> None:
    requests, lease = Requests(EngineSpeed()), FakeLease()
    call = make_call()
    call.record.trace_headers = ((b"traceparent", b"x"),)
    requests.begin(call, lease)
    target, method, path, headers, body = requests.sent
    assert (target.host, target.port, target.api_key) == ("127.0.0.1", 1, "sk-engine")
    assert (method, path, body) == (b"POST", b"/v1/chat/completions", b"{}")
    assert (b"traceparent", b"x") in headers
    assert requests.options["header_timeout_s"] == 7.0
    # The next request needs the same target, whose connections it may use.
    assert target_of(cast(Lease, lease)) is target


def test_another_host_is_told_the_model_and_how_long_it_may_load() -> None:
    requests = Requests(EngineSpeed())
    requests.begin(replace(make_call(), model=cast(Any, SimpleNamespace(id="box/a model"))))
    assert requests.sent[0] == "a"
    assert requests.sent[2].startswith(b"/hop/v1/chat/completions?")
    assert requests.query == {"model": "box/a model", "load_s": "90", "blame": "1"}
    assert requests.options["own_header"] == (b"x-request-id", b"request-1")


@pytest.mark.parametrize(
    ("keep_alive", "told"),
    [
        (KeepAlive(30.0), {"keep_alive_s": "30"}),
        (KeepAlive(-1.0), {"keep_alive_s": "-1"}),
        (KeepAlive(30.0, may_shorten=False), {"min_keep_alive_s": "30"}),
    ],
)
def test_the_keep_alive_of_a_request_is_told(keep_alive: KeepAlive, told: dict[str, str]) -> None:
    requests = Requests(EngineSpeed())
    requests.begin(make_call(keep_alive=keep_alive))
    assert requests.query.items() >= told.items()


def test_measured_speeds_are_told_with_two_digits() -> None:
    """So the paths of most requests are the same, and are made once."""
    requests = Requests(EngineSpeed(1234.0, 56.78))
    requests.begin(make_call())
    assert requests.query["prefill_tokens_per_s"] == "1200"
    assert requests.query["decode_tokens_per_s"] == "57"
    path = requests.sent[2]
    near = Requests(EngineSpeed(1249.0, 57.49))
    near.begin(make_call())
    assert near.sent[2] is path
