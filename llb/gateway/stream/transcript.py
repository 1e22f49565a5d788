"""Transcript: prompt and answer as text of bounded size. Used with `--history-text` only."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from llb.gateway.stream.sse import is_event_stream_type, iter_data
from llb.wire import RequestText
from llb.wire.decoding import DECODE_ERRORS

# The prompt and the answer have this limit each.
MAX_TEXT_BYTES = 32 * 1024
# A document is decoded when it is complete.
MAX_DOCUMENT_BYTES = 256 * 1024


# --- prompts -----------------------------------------------------------------------------------------


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, frozen=True):
    function: _Function = _Function()


class _Part(Struct, frozen=True):
    """Part of a message. Anthropic's tool calls and their results are parts, too."""

    type: str = "text"
    text: str | None = None
    name: str | None = None
    input: Raw = Raw()
    content: str | list[_Part] | None = None


class _Message(Struct, frozen=True):
    """Message of a chat, or item of Responses, where function calls and results are items like messages."""

    role: str = ""
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None
    type: str = "message"
    name: str | None = None
    arguments: str | None = None
    output: str | list[_Part] | None = None


class _Request(Struct, frozen=True):
    system: str | list[_Part] | None = None
    instructions: str | None = None
    messages: list[_Message] = []
    prompt: Raw = Raw()
    input: Raw = Raw()
    query: str | None = None
    documents: list[str] = []


def extract_prompt(body: bytes) -> str:
    """Return the messages of a chat with their roles, the prompt, or the documents to rank; else empty."""
    try:
        request = msgspec.json.decode(body, type=_Request)
        texts = [f"system: {_content_text(text)}" for text in (request.system, request.instructions) if text]
        texts += _format_messages(request.messages)
        for raw in (request.prompt, request.input):
            if bytes(raw):
                texts += _parse_turns(raw) or [_raw_text(raw)]
        texts += [text for text in (request.query, *request.documents) if text]
    except DECODE_ERRORS:
        return ""
    return "\n\n".join(texts)


def _format_messages(messages: list[_Message]) -> list[str]:
    return [f"{message.role or message.type}: {''.join(_message_texts(message))}" for message in messages]


def _parse_turns(raw: Raw) -> list[str]:
    """Return the turns of a Responses input; empty for any other input."""
    try:
        return _format_messages(msgspec.json.decode(raw, type=list[_Message]))
    except DECODE_ERRORS:
        return []


def _message_texts(message: _Message) -> Iterator[str]:
    yield _content_text(message.content)
    yield _content_text(message.output)
    yield from _tool_call_texts(message.tool_calls)
    if message.arguments is not None:
        yield from _function_call_texts(message.name, message.arguments)


def _content_text(content: str | list[_Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(piece for part in content for piece in _part_texts(part))


def _part_texts(part: _Part) -> Iterator[str]:
    if part.text is not None:
        yield part.text
    elif part.content is not None:
        yield _content_text(part.content)
    elif part.name is not None:
        yield from _function_call_texts(part.name, bytes(part.input).decode())
    else:
        yield f"[{part.type}]"


def _tool_call_texts(calls: list[_ToolCall] | None) -> Iterator[str]:
    """Yield the name of each function on its own line, then its arguments; a stream brings them in pieces."""
    for call in calls or ():
        yield from _function_call_texts(call.function.name, call.function.arguments)


def _function_call_texts(name: str | None, arguments: str | None) -> Iterator[str]:
    if name:
        yield f"\n{name} "
    yield arguments or ""


def _raw_text(raw: Raw) -> str:
    """Return a text, or texts one a line; token ids as they were written."""
    value = msgspec.json.decode(raw)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value if isinstance(value, str) else bytes(raw).decode()


# --- answers -----------------------------------------------------------------------------------------


class _Delta(Struct, frozen=True):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, frozen=True):
    """Choice of a chat, streamed (`delta`) or not (`message`), or of a completion (`text`)."""

    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _BlockDelta(Struct, frozen=True):
    """Delta of Anthropic's dialect: of a text, or of a tool's input."""

    text: str | None = None
    partial_json: str | None = None


class _ResponseBody(Struct, frozen=True):
    """Answer or event: OpenAI's chat (`choices`), Anthropic's (`content`), Responses (`output`)."""

    choices: list[_Choice] = []
    content: list[_Part] = []
    output: list[_Message] = []
    type: str = ""
    delta: str | _BlockDelta | None = None
    content_block: _Part | None = None
    item: _Message | None = None


_decoder = msgspec.json.Decoder(_ResponseBody)


class Transcript:
    """Text of one request, collected while the answer passes: end of the prompt, start of the answer."""

    def __init__(self, prompt: str) -> None:
        whole = prompt.encode()
        self._prompt = whole[-MAX_TEXT_BYTES:]
        self._prompt_truncated = len(whole) > MAX_TEXT_BYTES
        self._answer: list[str] = []
        self._answer_bytes = 0
        self._document = bytearray()
        self._is_stream = False

    def set_content_type(self, content_type: bytes) -> None:
        self._is_stream = is_event_stream_type(content_type)

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer; of a stream whole lines."""
        if not self._is_stream:
            if len(self._document) <= MAX_DOCUMENT_BYTES:
                self._document += data
        elif self._answer_bytes <= MAX_TEXT_BYTES:
            for event in iter_data(data):
                self._add_event(event)

    def build_text(self) -> RequestText | None:
        """Return the transcript, once the answer is complete; None if it is empty."""
        if self._document:
            self._add_event(bytes(self._document))
        answer = "".join(self._answer).strip("\n").encode()
        truncated = len(answer) > MAX_TEXT_BYTES or len(self._document) > MAX_DOCUMENT_BYTES
        if not self._prompt and not answer and not truncated:
            return None
        return RequestText(
            prompt=self._prompt.decode(errors="ignore") or None,
            prompt_truncated=self._prompt_truncated,
            answer=answer[:MAX_TEXT_BYTES].decode(errors="ignore") or None,
            answer_truncated=truncated,
        )

    def _add_event(self, event: bytes) -> None:
        try:
            answer = _decoder.decode(event)
        except DECODE_ERRORS:
            # `[DONE]`, or a piece of an event over MAX_EVENT_BYTES.
            return
        for piece in _response_texts(answer):
            self._answer.append(piece)
            self._answer_bytes += len(piece.encode())


# Events of Responses with new text; the others repeat it.
_DELTA_EVENTS = ("response.output_text.delta", "response.function_call_arguments.delta")


def _response_texts(answer: _ResponseBody) -> Iterator[str]:
    for choice in answer.choices:
        delta = choice.delta or choice.message or _Delta(content=choice.text)
        yield delta.content or ""
        yield from _tool_call_texts(delta.tool_calls)
    if answer.type == "response.output_item.added" and answer.item is not None:
        yield from _function_call_texts(answer.item.name, None)
    elif answer.type in _DELTA_EVENTS and isinstance(answer.delta, str):
        yield answer.delta
    elif answer.type == "content_block_start" and answer.content_block is not None:
        yield from _function_call_texts(answer.content_block.name, None)
    elif answer.type == "content_block_delta" and isinstance(answer.delta, _BlockDelta):
        yield answer.delta.text or answer.delta.partial_json or ""
    elif not answer.type.startswith(("response.", "content_block_")):
        yield _content_text([part for part in answer.content if part.type != "thinking"])
        for item in answer.output:
            if item.type != "reasoning":
                yield from _message_texts(item)
