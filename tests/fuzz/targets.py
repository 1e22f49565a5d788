"""Fuzzed parsers, each with examples of its input and its allowed errors. Any other error is a defect."""

from __future__ import annotations

import asyncio
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llb import gguf
from llb.api.inference.request_validation import validate_request
from llb.api.middleware.client_info import parse_host, parse_origin
from llb.api.request_body import decode_json
from llb.catalog import load_catalog
from llb.cluster.link.websocket_link import decode_balancer_message, decode_node_message
from llb.config import load_config
from llb.errors import InvalidFileToken, InvalidRequest, LlbError, SetupError
from llb.gateway.dialects import ollama_request, ollama_response
from llb.gateway.dialects.ollama_response import RequestClock, ResponseShape, ResponseTranslator
from llb.gateway.http.engine_errors import error_from_engine_response, translate_engine_error
from llb.gateway.routing.affinity_key import compute_affinity_key, estimate_prompt_tokens
from llb.gateway.stream.aggregator import AGGREGATOR_OF_PATH
from llb.gateway.stream.disconnect_detection import ProgressFilter, request_progress
from llb.gateway.stream.start_event import ChatStartEvent, MessagesStartEvent
from llb.gateway.stream.transcript import Transcript, extract_prompt
from llb.gateway.stream.usage_parser import UsageParser
from llb.policy.grammar_cost import TooComplex, check_grammar, measure_pattern
from llb.security import file_token, tls_trust
from llb.security.certificates import create_authority
from llb.wire import InferenceFields
from llb.wire.decoding import DECODE_ERRORS
from tests.fuzz.bounds import all_values
from tests.fuzz.mutate import mutate
from tests.ggufs import TOOL_CHAT_TEMPLATE, write_chat_model, write_embedding_model
from tests.harness import write_catalog

CHAT = {
    "model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}],
    "stream": True, "max_tokens": 8, "n": 1, "logprobs": True, "keep_alive": "5m",
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "^a{1,3}$"}}},
}  # fmt: skip
SSE_SEEDS = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"id":"c","model":"m","prompt_progress":{"total":9,"cache":0,"processed":0,"time_ms":0}}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hi","tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}}],"created":1,"id":"c","model":"m"}\n\n'
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"c","model":"m","usage":{"prompt_tokens":3,"completion_tokens":1},"timings":{"prompt_n":3,"predicted_n":1}}\n\n'
    b"data: [DONE]\n\n",
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\nevent: response.in_progress\ndata: {"type":"response.in_progress","response":{"id":"r"},"prompt_progress":{"total":1}}\n\nevent: response.completed\ndata: {"type":"response.completed","response":{"id":"r","created_at":1,"output":[],"usage":{"input_tokens":1,"output_tokens":1}}}\n\n',
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":1,"output_tokens":0}}}\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}\n\nevent: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'data: {"error":{"code":500,"message":"no","type":"server_error"}}\n\n',
)  # fmt: skip
HELLO = {"type": "hello", "protocol": 1, "node_id": "n", "name": "x", "version": "1", "platform": "p", "addresses": [], "hardware": {"cpu": "c", "cpu_count": 1, "memory_total_bytes": 1}, "memory_budget_bytes": 1, "vram_budget_bytes": 0, "max_downloads": 1, "slots_per_engine": 1, "replicas": []}  # fmt: skip
OLLAMA = {"model": "m", "messages": [{"role": "user", "content": "hi", "images": ["iVBOR"], "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}], "options": {"num_predict": 5, "stop": ["a"]}, "format": {"type": "object"}, "think": "high", "keep_alive": "5m"}  # fmt: skip
GRAMMARS = (
    'root ::= "a" | (b c)* # x\nb ::= [^a-z\\x41] {0,9}\nc ::= b? "\\"" . | root',
    r"^(?:[a-z\d]{1,3}|(\.[^\]])*)+x?$",
    "root ::= [a-z]* [a-z]* [a-z]* [a-z]* [a-z]*",
)
CLOCK = RequestClock(lambda: datetime(2026, 1, 1, tzinfo=UTC), lambda: 1.0, lambda: 0.0)


@dataclass(frozen=True)
class FuzzTarget:
    """`read` takes one case; it may raise `allowed` and nothing else."""

    name: str
    seeds: tuple[bytes, ...]
    parse: Callable[[bytes, random.Random], object]
    allowed_errors: tuple[type[Exception], ...] = ()

    def generate_case(self, chance: random.Random) -> bytes:
        return mutate(chance, self.seeds)


def _json_seeds(*documents: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


def _random_chunks(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """As a network would cut them."""
    at = 0
    while at < len(data):
        step = chance.choice((1, 7, 100, 5000))
        yield data[at : at + step]
        at += step


def build_targets(directory: Path) -> tuple[FuzzTarget, ...]:
    chat = write_chat_model(directory / "chat.gguf", template=TOOL_CHAT_TEMPLATE).read_bytes()
    embedding = write_embedding_model(directory / "embed.gguf").read_bytes()
    catalog_path = write_catalog(directory / "catalog.json", {"id": "tiny", "size_bytes": 300_000})
    key = file_token.derive_key("secret")
    ticket = file_token.sign(
        key, file_token.FileToken(sha256="a" * 64, from_node="a", to_node="b", expires_at=2_000_000_000)
    )

    def header(data: bytes, _chance: random.Random) -> None:
        gguf.build_model_shape([gguf.read_metadata(io.BytesIO(data), file_size=len(data))])

    def catalogue(data: bytes, _chance: random.Random) -> None:
        path = directory / "fuzzed.json"
        path.write_bytes(data)
        load_catalog(path)

    def config(data: bytes, _chance: random.Random) -> None:
        home = Path(tempfile.mkdtemp(dir=directory))
        (home / "llb.toml").write_bytes(data)
        load_config({"home": str(home)}, {})

    def body(data: bytes, _chance: random.Random) -> None:
        head = decode_json(data, InferenceFields)
        validate_request(data)
        estimate_prompt_tokens(data)
        compute_affinity_key(head, None, "k")
        extract_prompt(data)
        json.loads(request_progress(data, stream=False).decode("utf-8", "replace"))

    def grammars(data: bytes, _chance: random.Random) -> None:
        text = data.decode("utf-8", "replace")
        check_grammar.__wrapped__(text)
        measure_pattern.__wrapped__(text)

    async def three() -> int:
        return 3

    def stream(data: bytes, chance: random.Random) -> None:
        edges, prelude, transcript = UsageParser(), ProgressFilter(), Transcript("x")
        transcript.set_content_type(b"text/event-stream")
        for piece in _random_chunks(data, chance):
            edges.feed(piece)
            transcript.feed(piece)
        prelude.filter_events(data)
        prelude.flush()
        for opening in (ChatStartEvent(), MessagesStartEvent("m", "1", three)):
            before = asyncio.run(opening.missing_prefix(data))
            assert before == b"" or before.endswith(b"\n\n")
        transcript.build_text()
        edges.parse_stream()
        edges.parse_document()

    def whole(data: bytes, chance: random.Random) -> None:
        gathered = chance.choice([*AGGREGATOR_OF_PATH.values()])()
        for piece in _random_chunks(data, chance):
            gathered.feed(piece)
        if gathered.is_complete:
            json.loads(gathered.document().decode("utf-8", "replace"))

    def ollama_stream(data: bytes, chance: random.Random) -> None:
        answer = ResponseTranslator("m", chance.choice([*ResponseShape]), CLOCK)
        lines = b"".join(answer.feed(piece) for piece in _random_chunks(data, chance)) + answer.finish()
        for line in lines.splitlines():
            json.loads(line)

    def translate_ollama_request(data: bytes, chance: random.Random) -> None:
        kind, make = chance.choice(
            ((ollama_request.ChatRequest, ollama_request.translate_chat), (ollama_request.GenerateRequest, ollama_request.translate_generate), (ollama_request.EmbedRequest, ollama_request.translate_embed))
        )  # fmt: skip
        maker: Callable[[Any], ollama_request.EngineRequest | None] = make
        question = maker(decode_json(data, kind))
        if question is not None:
            question.encode_body("m")

    def engine_error(data: bytes, chance: random.Random) -> None:
        status = chance.choice((400, 401, 404, 413, 500, 501, 503))
        assert isinstance(translate_engine_error(status, data), LlbError)
        assert isinstance(
            error_from_engine_response(status, [(b"x-llb-error", b"x"), (b"retry-after", data[:9])], data),
            LlbError,
        )

    def origins(data: bytes, _chance: random.Random) -> None:
        text = data.decode("latin-1")
        parse_host(text)
        parse_origin(text)

    def link(data: bytes, _chance: random.Random) -> None:
        decode_node_message(data)

    def want(data: bytes, _chance: random.Random) -> None:
        decode_balancer_message(data)

    def proof(data: bytes, _chance: random.Random) -> None:
        file_token.verify(key, data.decode("utf-8", "replace"), 1.0)

    def anchor(data: bytes, _chance: random.Random) -> None:
        text = data.decode("latin-1")
        tls_trust.certificate_fingerprint(text)
        tls_trust.get_client_context.__wrapped__(text)

    def vectors(data: bytes, _chance: random.Random) -> None:
        ollama_response.translate_embeddings(data, "m", CLOCK)

    wire_errors = DECODE_ERRORS
    return (
        # A header is at the beginning; the bytes after it are only counted.
        FuzzTarget("GGUF header", (chat[:6000], embedding[:6000], chat), header, (gguf.GgufError,)),
        FuzzTarget("catalogue", (catalog_path.read_bytes(),), catalogue, (SetupError,)),
        FuzzTarget("llb.toml", (b'port = 8080\nmemory_limit = "12GB"\nallowed_host = ["a", "b"]\nhistory_text = true\n',), config, (SetupError,)),
        FuzzTarget("request body", _json_seeds(CHAT, {"model": "m", "prompt": "x", "n_probs": 3}), body, (LlbError,)),
        FuzzTarget("request bounds", _json_seeds(*({"model": "m", name: value} for name, value in all_values() if len(str(value)) < 5000)), body, (LlbError,)),
        FuzzTarget("pattern and grammar", (*(case.encode() for case in GRAMMARS),), grammars, (TooComplex,)),
        FuzzTarget("engine's stream", SSE_SEEDS, stream),
        FuzzTarget("stream made whole", SSE_SEEDS, whole, (LlbError,)),
        FuzzTarget("stream as Ollama's lines", SSE_SEEDS, ollama_stream),
        FuzzTarget("Ollama's request", _json_seeds(OLLAMA, {"model": "m", "prompt": "x", "suffix": "y"}, {"model": "m", "input": ["a"]}), translate_ollama_request, (InvalidRequest,)),
        FuzzTarget("engine's error", _json_seeds({"error": {"code": 400, "message": "'n' is /a/b wrong", "type": "x"}}, {"error": {"message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 5, "n_ctx": 4}}), engine_error),
        FuzzTarget("Host and Origin", (b"localhost:8080", b"http://[::1]:8080", b"null", b"https://a.example"), origins),
        FuzzTarget("node's message", _json_seeds(HELLO, {"type": "goodbye"}), link, wire_errors),
        FuzzTarget("balancer's message", _json_seeds({"type": "want", "revision": 1, "models": [], "deleted": []}, {"type": "dial", "spares": 3}), want, wire_errors),
        FuzzTarget("ticket", (ticket.encode(),), proof, (InvalidFileToken,)),
        FuzzTarget("certificate of another host", (create_authority().certificate.encode(),), anchor, (ValueError,)),
        FuzzTarget("engine's vectors", _json_seeds({"data": [{"embedding": [0.5, 1e-3], "index": 0}], "usage": {"prompt_tokens": 1}}), vectors, (*wire_errors, ValueError)),
    )  # fmt: skip
