"""What was asked and what was answered, as text within a limit. Used with `--history-text` only."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from llb.wire import RequestText

LIMIT_BYTES = 32 * 1024  # of each
DOCUMENT_BYTES = 256 * 1024  # an answer that is no stream is looked at when it is complete


# --- what is asked -----------------------------------------------------------------------------------


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, frozen=True):
    function: _Function = _Function()


class _Part(Struct, frozen=True):
    type: str = "text"
    text: str | None = None


class _Message(Struct, frozen=True):
    role: str = "user"
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None


class _Request(Struct, frozen=True):
    messages: list[_Message] = []
    prompt: Raw = Raw()
    input: Raw = Raw()


def prompt_of(body: bytes) -> str:
    """The messages of a chat, each after its role, or the prompt; empty where there is no such thing."""
    try:
        request = msgspec.json.decode(body, type=_Request)
        texts = [f"{message.role}: {''.join(_content(message))}" for message in request.messages]
        texts += [_plain(raw) for raw in (request.prompt, request.input) if bytes(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return "\n\n".join(texts)


def _content(message: _Message) -> Iterator[str]:
    if isinstance(message.content, str):
        yield message.content
    for part in message.content if isinstance(message.content, list) else ():
        yield f"[{part.type}]" if part.text is None else part.text
    yield from _calls(message.tool_calls)


def _calls(calls: list[_ToolCall] | None) -> Iterator[str]:
    """The name of a function on a line of its own, then its arguments; in a stream they come in pieces."""
    for call in calls or ():
        if call.function.name:
            yield f"\n{call.function.name} "
        yield call.function.arguments or ""


def _plain(raw: Raw) -> str:
    """A text, or a text a line; tokens as they were written."""
    value = msgspec.json.decode(raw)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value if isinstance(value, str) else bytes(raw).decode()


# --- what is answered --------------------------------------------------------------------------------


class _Delta(Struct, frozen=True):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, frozen=True):
    """One of a chat, streamed (`delta`) or not (`message`), or of a completion (`text`)."""

    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _Answer(Struct, frozen=True):
    choices: list[_Choice] = []


_decoder = msgspec.json.Decoder(_Answer)


class Transcript:
    """The text of one request, gathered while its answer passes by: of a prompt the end, of an answer the beginning."""

    def __init__(self, prompt: str) -> None:
        whole = prompt.encode()
        self._prompt = whole[-LIMIT_BYTES:]
        self._prompt_truncated = len(whole) > LIMIT_BYTES
        self._answer: list[str] = []
        self._answer_bytes = 0
        self._document = bytearray()
        self._stream = False

    def begin(self, content_type: bytes) -> None:
        self._stream = content_type.startswith(b"text/event-stream")

    def add(self, data: bytes) -> None:
        """Some bytes of the answer; of a stream whole lines."""
        if not self._stream:
            if len(self._document) <= DOCUMENT_BYTES:
                self._document += data
        elif self._answer_bytes <= LIMIT_BYTES:
            for line in data.splitlines():
                if line.startswith(b"data:"):
                    self._take(line[5:])

    def text(self) -> RequestText | None:
        """All of it, once the answer is complete; None where there was none."""
        if self._document:
            self._take(bytes(self._document))
        answer = "".join(self._answer).strip("\n").encode()
        truncated = len(answer) > LIMIT_BYTES or len(self._document) > DOCUMENT_BYTES
        if not self._prompt and not answer and not truncated:
            return None
        return RequestText(
            prompt=self._prompt.decode(errors="ignore") or None,
            prompt_truncated=self._prompt_truncated,
            answer=answer[:LIMIT_BYTES].decode(errors="ignore") or None,
            answer_truncated=truncated,
        )

    def _take(self, event: bytes) -> None:
        try:
            answer = _decoder.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # `[DONE]`, or a piece of an event that was too large to be passed on whole
        for choice in answer.choices:
            said = choice.delta or choice.message or _Delta(content=choice.text)
            for piece in (said.content or "", *_calls(said.tool_calls)):
                self._answer.append(piece)
                self._answer_bytes += len(piece.encode())
