"""What the stand-ins answer: deterministic, from what was asked, the same behind every dialect."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tool:
    name: str
    schema: dict[str, Any]


@dataclass
class Question:
    """A request without its dialect."""

    model: str
    text: str = ""
    prompt_words: int = 0
    tools: list[Tool] = field(default_factory=list)
    # auto, none, required, or the name of a tool.
    tool_choice: str = "auto"
    parallel: bool = True
    # The results that end the conversation, in their order.
    results: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    # The schema of a structured answer; empty for any JSON.
    schema: dict[str, Any] | None = None
    think: bool = False
    max_tokens: int | None = None
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: dict[str, Any]


@dataclass
class Answer:
    """`pieces` are the deltas of a stream; `finish` is OpenAI's."""

    thinking: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    finish: str = "stop"
    stop_sequence: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def example_of(schema: Any, name: str = "value") -> Any:
    """A value that the schema admits."""
    if not isinstance(schema, dict):
        return name
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return example_of(schema[union][0], name)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {key: example_of(value, key) for key, value in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema.get("items", {}), name)]
        case "integer":
            return 7
        case "number":
            return 1.5
        case "boolean":
            return True
        case "null":
            return None
    return name


def answer(question: Question, *, cached_tokens: int = 0) -> Answer:
    """Tool calls where tools are offered and none has been answered, else text."""
    result = Answer(prompt_tokens=max(1, question.prompt_words), cached_tokens=cached_tokens)
    if question.think:
        result.thinking = ["The user ", "asks for ", "something."]
    if question.schema is not None:
        document = json.dumps(example_of(question.schema) if question.schema else {"answer": "yes"})
        pieces = [document[at : at + 8] for at in range(0, len(document), 8)]
    elif question.tools and question.tool_choice != "none" and not question.results:
        named = [tool for tool in question.tools if question.tool_choice in ("auto", "required", tool.name)]
        chosen = named if question.parallel else named[:1]
        # Two calls where the question asks for two cities, as the examples of all clients do.
        if len(chosen) == 1 and question.parallel and "two" in question.text:
            chosen = chosen * 2
        result.calls = [
            Call(f"call_{number}_{tool.name}"[:40], tool.name, _arguments_of(tool, number))
            for number, tool in enumerate(chosen)
        ]
        pieces = ["Let me ", "look."] if "aloud" in question.text else []
        result.finish = "tool_calls"
    else:
        pieces = [f"{word} " for word in _reply_of(question).split()]
        pieces[-1] = pieces[-1].rstrip()
    _limit(result, pieces, question)
    result.completion_tokens = len(result.thinking) + len(result.pieces) + 5 * len(result.calls)
    return result


def _arguments_of(tool: Tool, number: int) -> dict[str, Any]:
    example = example_of(tool.schema) if tool.schema.get("properties") else {}
    return {key: f"{value} {number}" if isinstance(value, str) else value for key, value in example.items()}


def _reply_of(question: Question) -> str:
    if question.results:
        return "Results: " + "; ".join(question.results)
    seen = f" I see {len(question.images)} image(s): {', '.join(question.images)}." if question.images else ""
    return f"You said: {question.text}.{seen}"


def _limit(result: Answer, pieces: list[str], question: Question) -> None:
    if question.max_tokens is not None and len(pieces) > question.max_tokens:
        pieces = pieces[: question.max_tokens]
        result.finish = "length"
    text = "".join(pieces)
    for sequence in question.stop:
        at = text.find(sequence)
        if at >= 0:
            pieces, result.finish, result.stop_sequence = [text[:at]], "stop", sequence
            break
    result.pieces = [piece for piece in pieces if piece]
