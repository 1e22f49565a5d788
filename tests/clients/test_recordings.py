"""What real client programs sent, sent again: the answers have the status and the shape that they had.

`python -m tests.clients` makes the recordings, and runs the programs themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.compatibility.recording import read_recordings
from tests.clients.compatibility.serving import CHAT_MODEL, SCRIPTED_MODEL, serve_models
from tests.clients.compatibility.shape import describe_answer, missing_from

RECORDINGS = read_recordings()
# The answers of the scripted model end before any limit. Those of the chat model may have been cut.
ENDS_OF_RESPONSES = {"response.incomplete": "response.completed"}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        serve_models(tmp_path_factory.mktemp("recordings"), None) as (llb, key),
        httpx.Client(
            base_url=llb.url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("program", RECORDINGS)
def test_recorded_requests_are_answered_as_they_were(http: httpx.Client, program: str) -> None:
    requests = RECORDINGS[program]["requests"]
    assert requests
    for request in requests:
        answer = send(http, request)
        about = f"{program}, {request['step']}: {request['method']} {request['path']}: {answer.text[:500]}"
        expected = request["answer"]
        assert answer.status_code == expected["status"], about
        found = describe_answer(answer.headers.get("content-type", ""), answer.content)
        assert found["content_type"] == expected["content_type"], about
        assert found.get("ends") == expected.get("ends"), about
        if "last" in expected:
            assert end_of(found) == end_of(expected), about
        assert missing_from(found.get("shape"), expected.get("shape")) == [], about
        events = {ENDS_OF_RESPONSES.get(name, name): shape for name, shape in found.get("events", {}).items()}
        for name, shape in expected.get("events", {}).items():
            event = events.get(ENDS_OF_RESPONSES.get(name, name))
            assert event is not None, f"{name}: {about}"
            assert missing_from(event, shape) == [], about


def end_of(answer: dict[str, Any]) -> str | None:
    last: str | None = answer.get("last")
    return last if last is None else ENDS_OF_RESPONSES.get(last, last)


def send(http: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    """Send a recorded request, to the scripted model in place of the chat model and with the test's key."""
    body = request.get("body")
    if body is not None and body.get("model") == CHAT_MODEL:
        body = {**body, "model": SCRIPTED_MODEL}
    built = http.build_request(
        request["method"],
        request["path"].replace(CHAT_MODEL, SCRIPTED_MODEL),
        headers=request["headers"],
        content=None if body is None else json.dumps(body).encode(),
    )
    if request["credential"] == "x-api-key":
        built.headers["x-api-key"] = built.headers.pop("authorization").removeprefix("Bearer ")
    elif request["credential"] is None:
        del built.headers["authorization"]
    return http.send(built)
