"""Conversation of `llb chat`: what is sent, kept, saved and printed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llb.cli import output
from llb.cli.chat import conversation as conversation_module
from llb.cli.chat.conversation import AnswerPrinter, Conversation
from llb.cli.errors import CommandError


class FakeClient:
    """Client whose answers are the events of the test."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.events: list[dict[str, Any] | BaseException] = []

    @contextmanager
    def stream_events(self, path: str, body: Any, timeout_s: float) -> Iterator[Iterator[dict[str, Any]]]:
        self.bodies.append(body)

        def events() -> Iterator[dict[str, Any]]:
            for event in self.events:
                if isinstance(event, BaseException):
                    raise event
                yield event

        yield events()

    def post(self, path: str, body: Any, kind: Any, timeout_s: float) -> dict[str, Any]:
        self.bodies.append(body)
        return {"path": path}


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content, **more}}]}


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def talk(client: FakeClient) -> Conversation:
    made: Any = client
    return Conversation(made, "tiny", "Be brief.", {"seed": 7})


def test_each_message_goes_with_all_before_it(
    talk: Conversation, client: FakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.events = [{"choices": []}, text("Hel"), text("lo"), {"usage": {"completion_tokens": 2}}]
    talk.send("hi")
    talk.send("again")
    assert capsys.readouterr().out == "Hello\nHello\n"
    last = client.bodies[-1]
    assert [(each["role"], each["content"]) for each in last["messages"]] == [
        ("system", "Be brief."), ("user", "hi"), ("assistant", "Hello"), ("user", "again")
    ]  # fmt: skip
    assert (last["model"], last["seed"], last["stream"]) == ("tiny", 7, True)
    talk.clear()
    assert talk.request("x") == {"path": "/v1/chat/completions"}
    assert [each["role"] for each in client.bodies[-1]["messages"]] == ["system", "user"]
    assert "stream" not in client.bodies[-1]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), {"error": {"message": "the engine crashed"}}])
def test_an_answer_that_was_interrupted_is_kept_and_one_that_never_began_is_not(
    talk: Conversation, client: FakeClient, end: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    client.events = [end]
    with pytest.raises((KeyboardInterrupt, CommandError)):
        talk.send("hi")
    assert talk.messages == []
    client.events = [text("Hel"), end]
    with pytest.raises((KeyboardInterrupt, CommandError)):
        talk.send("hi")
    assert [each["content"] for each in talk.messages] == ["hi", "Hel"]
    # The prompt begins a line of its own.
    assert capsys.readouterr().out == "Hel\n"


def test_an_image_goes_with_one_message(talk: Conversation, client: FakeClient, tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"PNG")
    talk.attach_image(image)
    # What was not answered is sent again with its image.
    client.events = [{"error": {}}]
    with pytest.raises(CommandError, match="ended with an error"):
        talk.send("what?")
    client.events = [text("A cat.")]
    talk.send("what?")
    talk.send("sure?")
    url = f"data:image/png;base64,{base64.b64encode(b'PNG').decode()}"
    for body in client.bodies[:2]:
        assert body["messages"][-1]["content"] == [
            {"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}
        ]  # fmt: skip
    assert client.bodies[2]["messages"][-1]["content"] == "sure?"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.txt", b"x", "is not an image, by its name."),
        ("gone.png", None, "cannot be read: No such file or directory."),
        ("large.png", b"x" * 11, "is larger than 10 B."),
    ],
)
def test_a_file_that_cannot_be_sent(
    talk: Conversation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
    sentence: str,
) -> None:
    monkeypatch.setattr(conversation_module, "MAX_IMAGE_BYTES", 10)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CommandError) as refused:
        talk.attach_image(tmp_path / name)
    assert str(refused.value).endswith(sentence)
    assert talk.images == []


def test_a_conversation_is_continued_from_its_file(
    talk: Conversation, client: FakeClient, tmp_path: Path
) -> None:
    client.events = [text("日本語")]
    talk.send("hi")
    talk.save(tmp_path / "talk.json")
    other: Any = client
    again = Conversation(other, "other", None, {})
    again.load(tmp_path / "talk.json")
    assert (again.messages, again.system, again.parameters) == (talk.messages, "Be brief.", {"seed": 7})
    # The model stays the one that was chosen now.
    assert again.model_id == "other"
    with pytest.raises(CommandError, match="cannot be written"):
        talk.save(tmp_path)
    with pytest.raises(CommandError, match="cannot be read"):
        again.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "saved", ["{", "[]", {"messages": "x"}, {"messages": [{"role": "user"}]}, {"messages": ["x"]}]
)
def test_another_file_is_refused_and_changes_nothing(
    talk: Conversation, tmp_path: Path, saved: object
) -> None:
    path = tmp_path / "talk.json"
    path.write_text(saved if isinstance(saved, str) else json.dumps(saved))
    with pytest.raises(CommandError, match="is not a conversation that /save wrote"):
        talk.load(path)
    assert (talk.messages, talk.system) == ([], "Be brief.")


def test_at_a_terminal_the_reasoning_is_dim_and_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "is_tty", lambda _stream: True)
    printer = AnswerPrinter()
    for chunk in (text("", reasoning_content="Hm\x1b[2J. "), text("Yes."), {"choices": None}, {}):
        printer.print_chunk(chunk)
    printer.finish()
    shown = capsys.readouterr().out
    assert shown == "\x1b[2mHm[2J. \x1b[0m\n\nYes.\n"
    assert printer.answer == "Yes."


def test_piped_output_is_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter()
    for chunk in (text("", reasoning_content="Hm. "), text("a\x1b[2J\n")):
        printer.print_chunk(chunk)
    printer.finish()
    printer.print_throughput()
    assert capsys.readouterr() == ("a\x1b[2J\n", "")
