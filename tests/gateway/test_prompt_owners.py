"""Owners of prompts: which earlier prompts explain cached tokens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from llb.gateway import prompt_owners
from llb.gateway.prompt_owners import OWN_PROMPT_LIFETIME_S, OwnPrompt, PromptOwners
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.wire import InferenceFields, Role


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def owners(clock: Clock) -> PromptOwners:
    """An engine that has served another user before."""
    made = PromptOwners(clock)
    begin(made, "another", text="x")
    return made


def begin(
    owners: PromptOwners, owner: str, node: str = "here", *, is_new: bool = True, **fields: Any
) -> OwnPrompt | None:
    text = fields.pop("text", None)
    turns = fields.pop("turns", None)
    if turns is not None:
        fields["messages"] = [{"role": "user", "content": turn} for turn in turns]
    elif text is not None:
        fields["prompt"] = text
    body = json.dumps({"model": "m", **fields}).encode()
    head = msgspec.json.decode(body, type=InferenceFields)
    return asyncio.run(owners.begin_request(owner, node, "m", body, head, is_new=is_new))


def own_tokens(owners: PromptOwners, owner: str, **fields: Any) -> int:
    prompt = begin(owners, owner, **fields)
    assert prompt is not None
    return prompt.own_tokens


def send(owners: PromptOwners, owner: str, tokens: int, **fields: Any) -> None:
    prompt = begin(owners, owner, **fields)
    assert prompt is not None
    owners.end_request(prompt, tokens)


def test_a_sole_owner_has_nothing_to_be_hidden_from(clock: Clock) -> None:
    owners = PromptOwners(clock)
    assert begin(owners, "a", text="one") is None
    assert begin(owners, "a", text="two") is None
    assert begin(owners, "b", text="one") is not None
    assert begin(owners, "a", text="one") is not None
    assert begin(owners, "b", node="there", text="one") is None


def test_an_engine_that_served_before_may_hold_anything(clock: Clock) -> None:
    owners = PromptOwners(clock)
    assert begin(owners, "a", is_new=False, text="one") is not None
    assert begin(owners, "a", is_new=True, text="one") is not None


def test_the_same_prompt_and_what_continues_it(owners: PromptOwners) -> None:
    assert own_tokens(owners, "a", turns=["one"]) == 0
    send(owners, "a", 10, turns=["one"])
    send(owners, "a", 30, turns=["one", "two", "three"])
    assert own_tokens(owners, "a", turns=["one"]) == 10
    assert own_tokens(owners, "a", turns=["one", "other"]) == 10
    assert own_tokens(owners, "a", turns=["one", "two", "three", "four"]) == 30
    assert own_tokens(owners, "a", turns=["other"]) == 0
    # The beginning of a turn explains nothing.
    assert own_tokens(owners, "a", turns=["one and more"]) == 0


def test_what_explains_nothing(owners: PromptOwners) -> None:
    send(owners, "a", 10, turns=["one"], tools=[1])
    assert own_tokens(owners, "a", turns=["one", "two"], tools=[1]) == 10
    assert own_tokens(owners, "b", turns=["one", "two"], tools=[1]) == 0
    assert own_tokens(owners, "a", turns=["one", "two"], tools=[2]) == 0
    assert own_tokens(owners, "a", turns=["one", "two"]) == 0
    begin(owners, "another", node="there", text="x")
    assert own_tokens(owners, "a", node="there", turns=["one", "two"], tools=[1]) == 0


def test_a_text_prompt_is_explained_by_the_same_one_only(owners: PromptOwners) -> None:
    send(owners, "a", 10, text="one")
    assert own_tokens(owners, "a", text="one") == 10
    assert own_tokens(owners, "a", text="one two") == 0


def test_turns_cannot_be_confused_by_where_they_are_cut(owners: PromptOwners) -> None:
    send(owners, "a", 10, messages=["ab", "c"])
    assert own_tokens(owners, "a", messages=["a", "bc"]) == 0
    assert own_tokens(owners, "a", messages=["ab", "c", "d"]) == 10


def test_prompts_are_forgotten(owners: PromptOwners, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    send(owners, "a", 10, turns=["one"])
    clock.now += OWN_PROMPT_LIFETIME_S + 1
    assert own_tokens(owners, "a", turns=["one"]) == 0
    monkeypatch.setattr(prompt_owners, "MAX_PROMPTS", 2)
    for turn in ("one", "two", "three"):
        send(owners, "a", 10, turns=[turn])
    assert own_tokens(owners, "a", turns=["two"]) == 10
    assert own_tokens(owners, "a", turns=["one"]) == 0


def test_a_long_conversation_is_found_by_its_last_turns(owners: PromptOwners) -> None:
    turns = [str(number) for number in range(200)]
    send(owners, "a", 500, turns=turns[:190])
    assert own_tokens(owners, "a", turns=turns) == 500
    send(owners, "a", 10, turns=turns[:100])
    assert own_tokens(owners, "a", turns=turns[:150]) == 0


def test_keys_of_one_user_are_one_owner() -> None:
    keys = [
        Principal(kind=PrincipalKind.KEY, id=name, role=Role.USER, user_id=user)
        for name, user in (("k1", "ann"), ("k2", "ann"), ("k3", "bob"), ("k4", None), ("k5", None))
    ]
    assert len({key.owner_id for key in keys}) == 4
    assert LOCAL_PRINCIPAL.owner_id not in {key.owner_id for key in keys}


def test_the_size_of_a_body_changes_no_digest(owners: PromptOwners, monkeypatch: pytest.MonkeyPatch) -> None:
    send(owners, "me", 100, turns=["a", "b"])
    monkeypatch.setattr(prompt_owners, "MAX_EVENT_LOOP_BYTES", 0)
    assert own_tokens(owners, "me", turns=["a", "b", "c"]) == 100
