"""Size of the text in a body: text that can never fit is refused, images do not count."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from llb.api.inference.body_size import (
    MAX_BYTES_PER_TOKEN,
    MAX_CONTAINERS,
    MAX_SPECIAL_TOKENS,
    MAX_TEXT_BYTES,
    repair_body,
    require_fitting_text,
    strip_images,
)
from llb.api.inference.call_builder import read_body
from llb.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge
from llb.gateway.engine_routes import Operation

CONTEXT = 1024
FITTING = "x" * (CONTEXT * MAX_BYTES_PER_TOKEN - 1000)
TOO_LONG = "x" * (CONTEXT * MAX_BYTES_PER_TOKEN + 1)
BASE64 = "iVBOR" + "A" * (MAX_TEXT_BYTES + 5)
DATA_URL = f"data:image/png;base64,{BASE64}"


def encode(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (Operation.CHAT, {"messages": user(TOO_LONG)}),
        (Operation.CHAT, {"messages": user([{"type": "text", "text": TOO_LONG}])}),
        (Operation.CHAT, {"messages": user("x"), "tools": [{"name": "f", "description": TOO_LONG}]}),
        (Operation.CHAT, {"messages": user("x"), "system": TOO_LONG}),
        (Operation.CHAT, {"messages": user([{"type": "tool_result", "content": TOO_LONG}])}),
        (Operation.CHAT, {"input": TOO_LONG}),
        (Operation.CHAT, {"input": "x", "instructions": TOO_LONG}),
        (Operation.COUNTING, {"messages": user(TOO_LONG)}),
        (Operation.COUNTING, {"input": user(TOO_LONG)}),
        (Operation.COMPLETION, {"prompt": TOO_LONG}),
        (Operation.COMPLETION, {"prompt": "漢" * (len(TOO_LONG) // 3 + 1)}),
        (Operation.EMBEDDINGS, {"input": TOO_LONG}),
        (Operation.EMBEDDINGS, {"input": ["x", TOO_LONG]}),
        (Operation.RERANKING, {"query": TOO_LONG, "documents": ["x"]}),
        (Operation.RERANKING, {"query": "x", "documents": ["x", TOO_LONG]}),
        # A marker of an image makes no image of a text.
        (Operation.CHAT, {"messages": user(";base64," + TOO_LONG)}),
        (Operation.CHAT, {"messages": user([{"type": "text", "text": TOO_LONG, "data": "x"}])}),
    ],
)
def test_text_that_can_never_fit(operation: Operation, fields: dict[str, Any]) -> None:
    body = strip_images(encode(**fields))
    with pytest.raises(ContextLengthExceeded, match="at least") as error:
        require_fitting_text(body, operation, CONTEXT)
    assert error.value.details["context_length"] == CONTEXT
    assert error.value.details["prompt_tokens"] >= CONTEXT
    # An unknown limit refuses nothing.
    require_fitting_text(body, operation, None)


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (Operation.CHAT, {"messages": user(FITTING)}),
        (Operation.CHAT, {"messages": user([{"type": "image_url", "image_url": {"url": DATA_URL}}])}),
        (Operation.CHAT, {"messages": user([{"type": "image_url", "image_url": DATA_URL}])}),
        (
            Operation.CHAT,
            {"messages": user([{"type": "image", "source": {"type": "base64", "data": BASE64}}])},
        ),
        (Operation.CHAT, {"messages": user([{"type": "input_audio", "input_audio": {"data": BASE64}}])}),
        (Operation.CHAT, {"input": user([{"type": "input_image", "image_url": DATA_URL}])}),
        # Earlier reasoning, which templates leave out.
        (
            Operation.CHAT,
            {"messages": [{"role": "assistant", "content": "x", "reasoning_content": TOO_LONG}]},
        ),
        (Operation.COMPLETION, {"prompt": {"prompt_string": "x", "multimodal_data": [BASE64]}}),
        (Operation.COMPLETION, {"prompt": [1] * 100}),
        (Operation.EMBEDDINGS, {"input": [FITTING] * 20}),
        (Operation.RERANKING, {"query": "x", "documents": [FITTING] * 20}),
        # Escapes are longer than the text.
        (Operation.CHAT, {"messages": user("漢" * (len(FITTING) // 4))}),
    ],
)
def test_text_that_may_fit(operation: Operation, fields: dict[str, Any]) -> None:
    body = strip_images(encode(**fields))
    require_fitting_text(body, operation, CONTEXT)


@pytest.mark.parametrize(
    "body",
    [
        encode(prompt="x" * (MAX_TEXT_BYTES + 1)),
        encode(unknown=[[]] * (MAX_CONTAINERS + 1)),
        encode(unknown=[{}] * (MAX_CONTAINERS + 1)),
        b'{"model":"m","x":' + b"[" * MAX_TEXT_BYTES,
        # An image does not hide structure.
        encode(a=DATA_URL, b=[1] * (MAX_TEXT_BYTES // 2)),
        b'{"model":"m","data":1,"b":[' + b"1," * MAX_TEXT_BYTES + b"1]}",
        b'{"model":"m","x":"\\"data",":":"x"' + b',"b":[' + b"1," * MAX_TEXT_BYTES + b"1]}",
    ],
)
def test_large_bodies_without_images(body: bytes) -> None:
    with pytest.raises(PayloadTooLarge):
        strip_images(body)


def test_images_may_be_large_in_every_dialect() -> None:
    for body in (
        encode(messages=user([{"type": "image_url", "image_url": {"url": DATA_URL}}] * 2)),
        encode(messages=user([{"type": "image", "source": {"type": "base64", "data": BASE64}}])),
        encode(messages=[{"role": "user", "content": "x", "images": [BASE64, BASE64]}]),
        encode(prompt="x", images=[BASE64, BASE64, BASE64]),
    ):
        stripped = strip_images(body)
        assert len(stripped) < 1000
        assert msgspec.json.decode(stripped).keys() == msgspec.json.decode(body).keys()


def file_bodies(content: bytes) -> list[tuple[str, bytes]]:
    """Requests with a file, and the routes of the engine that take them."""
    encoded = base64.b64encode(content).decode()
    url = f"data:text/plain;base64,{encoded}"
    source = {"type": "base64", "media_type": "text/plain", "data": encoded}
    return [
        ("/v1/chat/completions", encode(messages=user([{"type": "file", "file": {"file_data": url}}]))),
        ("/v1/responses", encode(input=user([{"type": "input_file", "file_data": url}]))),
        ("/v1/messages", encode(messages=user([{"type": "document", "source": source}]))),
    ]


def read(path: str, body: bytes) -> bytes:
    stripped = strip_images(body)
    return read_body(
        body, stripped, path, Operation.CHAT, None, is_for_clouds=False, context_length=100_000
    ).body


@pytest.mark.parametrize("slash", [b"/", b"\\/"])
def test_a_large_text_file_is_text(slash: bytes) -> None:
    for path, body in file_bodies("Grüße? ".encode() * 20_000):
        assert b"Gr\xc3\xbc\xc3\x9fe? Gr" in read(path, body.replace(b"/", slash))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"%PDF-1.4\n" * 12_000, "is a PDF"),
        (b"PK\x03\x04\x00" * 24_000, "text in UTF-8"),
        (b"<s>" * 40_000, "special tokens"),
    ],
)
def test_a_large_file_that_is_no_prompt_is_refused(content: bytes, problem: str) -> None:
    for path, body in file_bodies(content):
        with pytest.raises(InvalidRequest, match=problem):
            read(path, body)


@pytest.mark.parametrize(
    "token", ["<|im_start|>", "<s>", "[INST]", "<start_of_turn>", "<｜User｜>", "<unused7>"]
)
@pytest.mark.parametrize("is_escaped", [False, True])
def test_special_tokens_written_as_text(token: str, is_escaped: bool) -> None:
    def body_with(count: int) -> bytes:
        text = json.dumps(token * count, ensure_ascii=False)
        if is_escaped:
            text = text.replace("<", "\\u003c").replace("[", "\\u005b").replace("I", "\\u0049")
        return f'{{"model":"m","prompt":{text}}}'.encode()

    require_fitting_text(body_with(MAX_SPECIAL_TOKENS), Operation.COMPLETION, 1_000_000)
    with pytest.raises(InvalidRequest, match="special tokens"):
        require_fitting_text(body_with(MAX_SPECIAL_TOKENS + 1), Operation.COMPLETION, 1_000_000)


@pytest.mark.parametrize(
    "message",
    [
        {"content": ";base64," + "<|im_start|>" * 100_000},
        {"content": ";base64," + "\u0001" * 20_000 + "[INST]" * 100_000},
        {"content": "x", "reasoning_content": "<|im_start|>" * 100_000},
        {"content": [{"type": "thinking", "thinking": "<s>" * 100_000}]},
        {"content": "x", "data": "<s>" * 100_000},
        {"content": "x", "images": ["<s>" * 100_000]},
    ],
)
def test_special_tokens_cannot_hide(message: dict[str, Any]) -> None:
    body = strip_images(encode(messages=[{"role": "user", **message}]))
    with pytest.raises(InvalidRequest, match="special tokens"):
        require_fitting_text(body, Operation.CHAT, 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        f'<img src="{DATA_URL}"> and \\',
        DATA_URL.replace("A" * 100, "/" * 100),
        "a;base64," + "b" * MAX_TEXT_BYTES + '","c',
        ";base64,",
    ],
)
@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_what_is_stripped_leaves_sound_json(text: str, slash: str) -> None:
    body = json.dumps({"model": "m", "prompt": text, "after": 1, "padding": "x" * 200_000})
    stripped = strip_images(body.replace("/", slash).encode())
    assert json.loads(stripped)["after"] == 1
    assert len(stripped) < 210_000
    if len(text) > 1000:
        # It is a text all the same.
        with pytest.raises(ContextLengthExceeded) as error:
            require_fitting_text(stripped, Operation.COMPLETION, CONTEXT)
        assert error.value.details["prompt_tokens"] * MAX_BYTES_PER_TOKEN > MAX_TEXT_BYTES * 0.9


def test_markup_is_no_special_token() -> None:
    body = encode(prompt="<p class='x'>a</p><br>" * MAX_SPECIAL_TOKENS)
    require_fitting_text(body, Operation.COMPLETION, 1_000_000)


def test_only_text_of_a_bounded_size_is_repaired() -> None:
    lone = rb"ab\ud800"
    too_long = b'{"model":"%b"}' % (lone * (MAX_TEXT_BYTES // len(lone) + 1))
    # Not the error about broken halves: they are not searched.
    with pytest.raises(PayloadTooLarge, match="The text of a request"):
        repair_body(too_long)
    image = encode(messages=user(DATA_URL))
    assert repair_body(image) is image
    assert repair_body(image[:-1] + b',"x":"%b"}' % lone) == image[:-1] + rb',"x":"ab\ufffd"}'
