"""The official clients through llb against a program that really runs:

    python -m tests.balancer.endpoints.real_program http://127.0.0.1:8000/v1 [--model NAME]

Starts an llb, adds the program as its endpoint, and prints a row for docs/compatibility.md. Without a model
whose answers make sense, calls of tools are only sent and read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai

from tests.harness import write_catalog
from tests.processes import LlbProcess

QUESTION: Any = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Bergen"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
MESSAGES_TOOLS: Any = [{"name": "weather", "input_schema": SCHEMA}]
CHAT_RESULTS: Any = [
    *QUESTION,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            for city in ("oslo", "bergen")
        ],
    },
    {"role": "tool", "tool_call_id": "call_oslo", "content": "rain"},
    {"role": "tool", "tool_call_id": "call_bergen", "content": "sun"},
]
MESSAGES_RESULTS: Any = [
    *QUESTION,
    {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": f"call_{city}", "name": "weather", "input": {}}
            for city in ("oslo", "bergen")
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_oslo", "content": "rain"},
            {"type": "tool_result", "tool_use_id": "call_bergen", "content": "sun"},
        ],
    },
]
Step = tuple[str, Callable[[], object]]


def openai_steps(client: openai.OpenAI, model: str) -> Iterator[Step]:
    create = client.chat.completions.create
    yield "chat", lambda: create(model=model, messages=QUESTION, max_tokens=8).usage.total_tokens  # type: ignore[union-attr]
    yield "stream", lambda: list(create(model=model, messages=QUESTION, max_tokens=4, stream=True))[1]
    yield "tools", lambda: create(model=model, messages=QUESTION, tools=CHAT_TOOLS, max_tokens=8).choices[0]
    yield (
        "parallel results",
        lambda: create(model=model, messages=CHAT_RESULTS, tools=CHAT_TOOLS, max_tokens=8).choices[0],
    )
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    yield (
        "structured output",
        lambda: create(model=model, messages=QUESTION, max_tokens=64, response_format=form).choices[0],
    )
    yield "completion", lambda: client.completions.create(model=model, prompt="Hi", max_tokens=4).choices[0]
    yield (
        "responses",
        lambda: client.responses.create(model=model, input="Hi", max_output_tokens=8).output[0],
    )
    yield "embeddings", lambda: client.embeddings.create(model=model, input=["a", "b"]).data[1]


def anthropic_steps(client: anthropic.Anthropic, model: str) -> Iterator[Step]:
    create = client.messages.create
    yield "chat", lambda: create(model=model, messages=QUESTION, max_tokens=8).content[0]

    def stream() -> int:
        with client.messages.stream(model=model, messages=QUESTION, max_tokens=4) as events:
            return events.get_final_message().usage.output_tokens

    yield "stream", stream
    yield (
        "tools",
        lambda: create(model=model, messages=QUESTION, tools=MESSAGES_TOOLS, max_tokens=8).content[0],
    )
    yield (
        "parallel results",
        lambda: create(model=model, messages=MESSAGES_RESULTS, tools=MESSAGES_TOOLS, max_tokens=8).content[0],
    )
    yield "count tokens", lambda: client.messages.count_tokens(model=model, messages=QUESTION).input_tokens


def ollama_steps(client: ollama.Client, model: str) -> Iterator[Step]:
    options = {"num_predict": 8}
    yield "chat", lambda: client.chat(model=model, messages=QUESTION, options=options).message.content
    yield (
        "stream",
        lambda: (
            list(client.chat(model=model, messages=QUESTION, stream=True, options=options))[-1].eval_count
        ),
    )
    yield (
        "tools",
        lambda: client.chat(model=model, messages=QUESTION, tools=CHAT_TOOLS, options=options).message,
    )
    yield (
        "structured output",
        lambda: (
            client.chat(model=model, messages=QUESTION, format=SCHEMA, options={"num_predict": 64}).message
        ),
    )
    yield "generate", lambda: client.generate(model=model, prompt="Hi", options=options).response
    yield "embeddings", lambda: client.embed(model=model, input=["a"]).embeddings[0]


def run_steps(steps: Iterator[Step]) -> str:
    """Return the steps that work, and those that do not with the reason."""
    works, fails = [], []
    for name, step in steps:
        try:
            step()
        except (openai.APIError, anthropic.APIError, ollama.ResponseError) as error:
            fails.append(f"{name} ({error})")
        else:
            works.append(name)
    return ", ".join(works) + (f"; not {'; '.join(fails)}" if fails else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base_url")
    parser.add_argument("--model", help="name of a model that its list lacks")
    parser.add_argument("--key", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llb-real-") as name:
        catalog = write_catalog(Path(name) / "catalog.json", {"id": "unused", "size_bytes": 1000})
        with LlbProcess(Path(name) / "home", "--catalog", str(catalog)) as llb:
            fields = {"base_url": options.base_url, "name": "real", "key": options.key}
            if options.model is not None:
                fields["models"] = [options.model]
            added = llb.http.post("/api/endpoints", json=fields)
            added.raise_for_status()
            endpoint = added.json()
            model = endpoint["models"][0]["served_as"]
            key = llb.http.post("/api/keys", json={"name": "k", "scopes": ["inference"]}).json()["key"]
            print(f"kind {endpoint['kind']}, {endpoint['status']}, {model}")
            chat = openai.OpenAI(api_key=key, base_url=f"{llb.url}/v1", max_retries=0)
            print("OpenAI:", run_steps(openai_steps(chat, model)))
            messages = anthropic.Anthropic(api_key=key, base_url=llb.url, max_retries=0)
            print("Anthropic:", run_steps(anthropic_steps(messages, model)))
            headers = {"Authorization": f"Bearer {key}"}
            print("Ollama:", run_steps(ollama_steps(ollama.Client(host=llb.url, headers=headers), model)))


if __name__ == "__main__":
    main()
