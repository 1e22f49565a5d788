"""Batches of the inputs of one request: texts to embed, documents to rank.

llama-server makes a task of each input and completes all of them before the next request. Batches take turns
in admission like requests, so that a list delays others by one batch. Pure: the dispatcher sends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct

from llb.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, LlbError
from llb.gateway.dialects.embedding_vectors import shorten_vector
from llb.gateway.dialects.rerank_documents import SHAPE_FIELDS, document_field, read_rank_fields, read_text
from llb.gateway.engine_routes import Operation
from llb.gateway.inference_call import InferenceCall
from llb.gateway.stream.document_buffer import DocumentBuffer
from llb.gateway.stream.usage_parser import Usage
from llb.wire.decoding import DECODE_ERRORS

MAX_INPUTS = 2048
# Default number of slots of an engine, and roughly the tokens that it computes in one step.
MAX_BATCH_INPUTS = 4
MAX_BATCH_BYTES = 8 * 1024
_NUMBER_STARTS = b"-0123456789"
# A text that is too long is cut to a length that may fit, and by at least a tenth at a time.
_FITTING_SHARE, _LARGEST_SHARE = 0.98, 0.9
# No tokenizer makes longer tokens of ordinary text on average.
_MAX_CHARS_PER_TOKEN = 16


class InputBatch(Struct, frozen=True):
    """Some inputs of a request; `offset` is the index of the first in the whole list."""

    offset: int
    items: tuple[Raw, ...]

    def split(self) -> Iterator[InputBatch]:
        """Yield a batch for each input."""
        return (InputBatch(self.offset + number, (item,)) for number, item in enumerate(self.items))


class BatchAnswer:
    """Sink of the answer to one batch."""

    def __init__(self) -> None:
        self._body = DocumentBuffer()
        self.content_type = b""
        self.node_name = ""
        self.queued_ms = 0
        self.usage = Usage()

    @property
    def body(self) -> bytes:
        return self._body.document

    @property
    def started(self) -> bool:
        """Always False: the client receives the whole list only."""
        return False

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._body.clear()
        self.content_type = content_type
        self.node_name, self.queued_ms = node_name, queued_ms

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self._body.append(data)


class InputList:
    """Inputs of one request, and the answers to their batches."""

    # Fields of the request that apply to the whole answer.
    whole_fields: ClassVar[tuple[str, ...]] = ("truncate",)

    def __init__(self, fields: dict[str, Raw], name: str, items: list[Raw]) -> None:
        self._fields = {key: raw for key, raw in fields.items() if key not in self.whole_fields}
        # Field of the request that has the inputs.
        self.name = name
        self._items = items
        self._truncates = _is_true(fields, "truncate")
        self._document: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}

    def batches(self) -> Iterator[InputBatch]:
        """Yield all inputs in their order, in batches of a bounded number and size."""
        items: list[Raw] = []
        size_bytes = offset = 0
        for index, item in enumerate(self._items):
            item_bytes = len(memoryview(item))
            if items and (len(items) == MAX_BATCH_INPUTS or size_bytes + item_bytes > MAX_BATCH_BYTES):
                yield InputBatch(offset, tuple(items))
                items, size_bytes, offset = [], 0, index
            items.append(item)
            size_bytes += item_bytes
        yield InputBatch(offset, tuple(items))

    def body_of(self, batch: InputBatch) -> bytes:
        """Return the body of the request for one batch."""
        return msgspec.json.encode({**self._fields, self.name: batch.items})

    def error_of(self, batch: InputBatch, error: LlbError) -> LlbError:
        """Return `error` with its input numbered in the whole list."""
        error.message = f"{self.name}[{batch.offset}]: {error.message}"
        error.details = {**error.details, "param": self.name}
        return error

    def shorten(self, batch: InputBatch, error: LlbError) -> InputBatch | None:
        """Return a batch with the beginning of its one text, if `error` says that it is too long for the
        context and the request allows to truncate it; else None.
        """
        if not (self._truncates and isinstance(error, ContextLengthExceeded)):
            return None
        [item] = batch.items
        text = msgspec.json.decode(item)
        if not isinstance(text, str) or len(text) < 2:
            return None
        tokens, context_length = error.details["prompt_tokens"], error.details["context_length"]
        share = min(_FITTING_SHARE * context_length / max(1, tokens), _LARGEST_SHARE)
        return InputBatch(batch.offset, (Raw(msgspec.json.encode(text[: max(1, int(len(text) * share))])),))

    def add_answer(self, batch: InputBatch, body: bytes) -> None:
        """Add the answer to a batch. Raises `EngineFailed` unless it is one."""
        try:
            document = msgspec.json.decode(body, type=dict[str, Raw])
            self._add_usage(msgspec.json.decode(document.pop("usage", Raw(b"{}")), type=dict[str, Any]))
            self._add_results(batch, document)
        except DECODE_ERRORS as error:
            raise EngineFailed("The engine sent an invalid answer") from error
        if self._document is None:
            self._document = dict(document)

    def document(self) -> bytes:
        """Return the answer to all inputs."""
        return msgspec.json.encode({**(self._document or {}), **self._results(), "usage": self._usage})

    def _add_usage(self, usage: dict[str, Any]) -> None:
        for name, count in usage.items():
            if isinstance(count, int):
                self._usage[name] = self._usage.get(name, 0) + count
            else:
                self._usage.setdefault(name, count)

    def _add_results(self, batch: InputBatch, document: dict[str, Raw]) -> None:
        raise NotImplementedError

    def _results(self) -> dict[str, Any]:
        raise NotImplementedError


class EmbeddingInputs(InputList):
    """Texts to embed. The vectors are copied without decoding their numbers, unless they are shortened."""

    whole_fields = ("dimensions", "truncate")

    def __init__(self, fields: dict[str, Raw], name: str, items: list[Raw]) -> None:
        super().__init__(fields, name, items)
        self._vectors: list[tuple[int, dict[str, Any]]] = []
        self._dimensions = _read_count(fields, "dimensions")

    def _add_results(self, batch: InputBatch, document: dict[str, Raw]) -> None:
        for vector in msgspec.json.decode(document.pop("data", Raw(b"[]")), type=list[dict[str, Raw]]):
            index = batch.offset + msgspec.json.decode(vector.get("index", Raw(b"0")), type=int)
            shortened: dict[str, Any] = {}
            if self._dimensions is not None:
                shortened["embedding"] = shorten_vector(vector["embedding"], self._dimensions)
            self._vectors.append((index, {**vector, **shortened, "index": index}))

    def _results(self) -> dict[str, Any]:
        return {"data": [vector for _, vector in sorted(self._vectors, key=lambda vector: vector[0])]}


class RankingInputs(InputList):
    """Documents to rank: the best `top_n` of all."""

    whole_fields = ("top_n", *SHAPE_FIELDS)

    def __init__(self, fields: dict[str, Raw], name: str, items: list[Raw]) -> None:
        rank_fields = read_rank_fields(fields)
        texts = [read_text(item, f"{name}[{index}]", rank_fields) for index, item in enumerate(items)]
        if "query" in fields:
            fields = {**fields, "query": read_text(fields["query"], "query")}
        super().__init__(fields, name, texts)
        self._ranks: list[dict[str, Any]] = []
        self._top_n = _read_count(fields, "top_n")
        self._returned = items if _is_true(fields, "return_documents") else None
        # The format of Text Embeddings Inference is a list, without usage.
        self._is_list = name == "texts"

    def add_answer(self, batch: InputBatch, body: bytes) -> None:
        super().add_answer(batch, b'{"results":%b}' % body if self._is_list else body)

    def document(self) -> bytes:
        return msgspec.json.encode(self._results()["results"]) if self._is_list else super().document()

    def _add_results(self, batch: InputBatch, document: dict[str, Raw]) -> None:
        for rank in msgspec.json.decode(document.pop("results", Raw(b"[]")), type=list[dict[str, Any]]):
            index = batch.offset + int(rank.get("index") or 0)
            returned = {} if self._returned is None else {"document": document_field(self._returned[index])}
            self._ranks.append({**rank, **returned, "index": index})

    def _results(self) -> dict[str, Any]:
        label = "score" if self._is_list else "relevance_score"
        # Python's sort is stable: equal documents stay in their order.
        ranks = sorted(self._ranks, key=lambda rank: -(rank.get(label) or 0.0))
        return {"results": ranks[: self._top_n]}


def read_input_list(call: InferenceCall, context_length: int | None = None) -> InputList | None:
    """Return the inputs of a request that has several or whose answer is changed; None for others.

    Texts that may be truncated are cut to what a context of `context_length` tokens can hold at most, before
    an engine counts their tokens. Raises `InvalidRequest`.
    """
    match call.operation:
        case Operation.EMBEDDINGS:
            make_list: type[InputList] = EmbeddingInputs
        case Operation.RERANKING:
            make_list = RankingInputs
        case _:
            return None
    fields = msgspec.json.decode(call.body, type=dict[str, Raw])
    if make_list is EmbeddingInputs:
        name = "input"
        if "input" not in fields:
            # llama-server would take `content`, and answer in a format of its own.
            raise InvalidRequest("input is required", param="input")
    else:
        name = "texts" if "texts" in fields else "documents"
        if "documents" in fields and "texts" in fields:
            raise InvalidRequest("documents and texts exclude each other", param="texts")
    inputs = fields.get(name, Raw())
    needs_work = any(
        bytes(fields.get(field, b"null")) not in (b"null", b"false") for field in make_list.whole_fields
    )
    if bytes(memoryview(inputs)[:1]) != b"[":
        is_text = bytes(memoryview(inputs)[:1]) == b'"'
        if not (needs_work and is_text):
            return None
        items = [inputs]
    else:
        items = msgspec.json.decode(inputs, type=list[Raw])
    if any(memoryview(item)[0] in _NUMBER_STARTS for item in items):
        # A list with numbers is one input: its tokens.
        return make_list(fields, name, [inputs]) if needs_work else None
    if len(items) < 2 and not (items and (needs_work or make_list is RankingInputs)):
        return None
    if len(items) > MAX_INPUTS:
        raise InvalidRequest(
            f"{name} may have at most {MAX_INPUTS} items: send the others in further requests", param=name
        )
    if context_length is not None and _is_true(fields, "truncate"):
        items = [_cut(item, context_length * _MAX_CHARS_PER_TOKEN) for item in items]
    return make_list(fields, name, items)


def _cut(item: Raw, max_chars: int) -> Raw:
    """Return an input whose text has at most `max_chars` characters."""
    if len(memoryview(item)) <= max_chars or bytes(memoryview(item)[:1]) != b'"':
        return item
    return Raw(msgspec.json.encode(msgspec.json.decode(item, type=str)[:max_chars]))


def _is_true(fields: dict[str, Raw], name: str) -> bool:
    """Return the value of a flag. Raises `InvalidRequest` for anything else."""
    raw = bytes(fields.get(name, b"null"))
    if raw not in (b"true", b"false", b"null"):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return raw == b"true"


def _read_count(fields: dict[str, Raw], name: str) -> int | None:
    value = msgspec.json.decode(fields.get(name, b"null"))
    if value is None or (isinstance(value, (int, float)) and value == int(value)):
        return None if value is None else int(value)
    raise InvalidRequest(f"{name} must be a whole number", param=name)
