"""Steps of a client program: what each client is asked to do, and how the result is reported.

A program runs in an environment of its own, so this module imports the standard library only.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

URL = os.environ["LLB_URL"]
KEY = os.environ["LLB_KEY"]
CHAT_MODEL = os.environ["LLB_CHAT_MODEL"]
TOOL_MODEL = os.environ["LLB_TOOL_MODEL"]
EMBEDDING_MODEL = os.environ["LLB_EMBEDDING_MODEL"]
EMBEDDING_SIZE = 64

QUESTION = "Say hello."
WEATHER_QUESTION = "What is the weather in Oslo?"
CITY_QUESTION = "Name a city of Norway, and whether few or many people live there."
WEATHER = "It rains in Oslo."
# Answer of the scripted model once it has the result of the tool.
ANSWER = os.environ["LLB_ANSWER"]

WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "name of the city"}},
    "required": ["city"],
}
CITY_SCHEMA: dict[str, Any] = {
    "title": "City",
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Bergen"]},
        "people": {"type": "string", "enum": ["few", "many"]},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}


def run_steps(*steps: Callable[[], object]) -> None:
    """Run each step and print its result as a line of JSON. A failed step does not stop the others."""
    for step in steps:
        name = step.__name__
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{URL}/record/{name}").close()
        error: str | None = None
        try:
            step()
        except Exception as exception:
            # Any failure of a client library is a result to report.
            error = " ".join(f"{type(exception).__name__}: {exception}".split())
        print(json.dumps({"step": name, "error": error}), flush=True)


def check_stream(pieces: Iterable[str | None]) -> str:
    """Return the text of a stream, which must have come in several pieces."""
    texts = [piece for piece in pieces if piece]
    assert len(texts) > 1, texts
    return "".join(texts)


def check_city(city: Any) -> None:
    """Check a document that must fit CITY_SCHEMA."""
    document = city if isinstance(city, dict) else city.model_dump()
    assert document.keys() == {"city", "people"}, document
    assert document["city"] in ("Oslo", "Bergen")
    assert document["people"] in ("few", "many")


def check_arguments(arguments: Any) -> None:
    """Check the arguments of a call of the tool `get_weather`."""
    document = json.loads(arguments) if isinstance(arguments, str) else dict(arguments)
    assert document == {"city": "Oslo"}, document


def check_vectors(vectors: list[Any]) -> None:
    """Check the embeddings of two texts."""
    assert [len(vector) for vector in vectors] == [EMBEDDING_SIZE, EMBEDDING_SIZE]
