"""Trial of a chat template over a fake server: what it prints decides, an error says nothing."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from llb.engine.template_trial import try_template
from llb.wire import TemplateSupport

Messages = list[dict[str, Any]]


class FakeServer:
    """Renders conversations with a function that returns the prompt, None to refuse."""

    def __init__(self, render: Callable[[Messages], str | None]) -> None:
        self.render = render
        self.requests: list[dict[str, Any]] = []
        self.closed = 0

    def connect(self) -> Any:
        return self

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        assert (method, path, headers["Authorization"]) == ("POST", "/apply-template", "Bearer key")
        self.requests.append(msgspec.json.decode(body))

    def getresponse(self) -> Any:
        prompt = self.render(self.requests[-1]["messages"])
        self.status = 400 if prompt is None else 200
        self.body = msgspec.json.encode({"prompt": prompt})
        return self

    def read(self) -> bytes:
        return self.body

    def close(self) -> None:
        self.closed += 1

    def support(self, **props: Any) -> TemplateSupport | None:
        found = try_template(self.connect, "key", props)
        assert self.closed == len(self.requests)
        return found


def print_all(messages: Messages) -> str:
    return " ".join(f"<{message['role']}>{message['content']}" for message in messages)


def roles_of(messages: Messages) -> list[str]:
    return [message["role"] for message in messages]


def test_a_template_that_prints_everything_has_every_feature() -> None:
    support = FakeServer(print_all).support()
    assert support == TemplateSupport(
        several_system=True, late_system=True, consecutive_roles=True, user_after_tool=True, tools=True
    )


def test_a_message_that_is_left_out_or_moved_is_a_feature_less() -> None:
    def first_system_only(messages: Messages) -> str:
        kept = [each for at, each in enumerate(messages) if each["role"] != "system" or at == 0]
        return print_all(kept)

    support = FakeServer(first_system_only).support()
    assert support is not None
    assert (support.several_system, support.late_system, support.consecutive_roles) == (False, False, True)

    def system_first(messages: Messages) -> str:
        return print_all(sorted(messages, key=lambda each: each["role"] != "system"))

    support = FakeServer(system_first).support()
    assert support is not None
    assert (support.several_system, support.late_system) == (True, False)


def test_a_refusal_of_one_conversation_is_a_feature_less() -> None:
    def strictly_alternating(messages: Messages) -> str | None:
        roles = [role for role in roles_of(messages) if role != "system"]
        return None if any(a == b for a, b in itertools.pairwise(roles)) else print_all(messages)

    support = FakeServer(strictly_alternating).support()
    assert support is not None
    assert not support.consecutive_roles
    assert support.user_after_tool


def test_what_comes_after_a_result_is_tried_only_where_results_are_printed() -> None:
    def no_results(messages: Messages) -> str:
        return print_all([each for each in messages if each["role"] != "tool"])

    support = FakeServer(no_results).support()
    assert support is not None
    assert support.user_after_tool
    refusing = FakeServer(
        lambda messages: None if roles_of(messages)[-2:] == ["tool", "user"] else print_all(messages)
    )
    support = refusing.support()
    assert support is not None
    assert not support.user_after_tool


def test_a_template_without_tools_is_not_tried_with_them() -> None:
    server = FakeServer(print_all)
    support = server.support(chat_template_caps={"supports_tools": False})
    assert support is not None
    assert (support.tools, support.user_after_tool) == (False, True)
    assert all("tools" not in request for request in server.requests)


def test_nothing_is_known_of_a_template_that_prints_no_conversation() -> None:
    server = FakeServer(lambda _messages: "always the same")
    assert server.support() is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("error", [ConnectionResetError(), http.client.BadStatusLine("x")])
def test_an_error_of_the_server_says_nothing(error: Exception) -> None:
    def fail(messages: Messages) -> str:
        if len(messages) == 3:
            raise error
        return print_all(messages)

    assert FakeServer(fail).support() is None
