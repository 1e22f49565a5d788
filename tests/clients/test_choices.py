"""Several choices, the best of several, several prompts and echo, through OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import RunningLlb

if TYPE_CHECKING:
    from openai import OpenAI

STORY: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Invent a name for a dragon."}],
    "max_tokens": 8,
    "temperature": 1.5,
}


@pytest.fixture
def client(served: RunningLlb) -> Iterator[OpenAI]:
    from openai import OpenAI

    with OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        yield client


def texts_of(choices: Any) -> list[str]:
    assert [choice.index for choice in choices] == list(range(len(choices)))
    return [choice.text if hasattr(choice, "text") else choice.message.content for choice in choices]


def test_choices_of_a_chat(served: RunningLlb, client: OpenAI) -> None:
    plain = {**STORY, "model": "plain"}
    answer = client.chat.completions.create(n=6, extra_headers={"X-Request-ID": "six"}, **plain)
    texts = texts_of(answer.choices)
    assert len(texts) == 6
    assert len(set(texts)) > 1
    assert answer.usage is not None
    one = client.chat.completions.create(**plain)
    assert one.usage is not None
    # The prompt counts once, the tokens of all choices.
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens > 3 * one.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    entry = served.wait_for_request("six")
    assert (entry["status"], entry["error_code"]) == (200, None)
    assert entry["prompt_tokens"] == answer.usage.prompt_tokens
    assert entry["completion_tokens"] == answer.usage.completion_tokens


def test_choices_of_a_stream_are_those_of_a_document(served: RunningLlb, client: OpenAI) -> None:
    seeded = {**STORY, "seed": 7, "n": 3}
    texts, ids, finished = ["", "", ""], set(), []
    usage = None
    for chunk in client.chat.completions.create(
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"X-Request-ID": "stream"},
        **seeded,
    ):
        ids.add(chunk.id)
        assert usage is None
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
    whole = client.chat.completions.create(**seeded)
    assert texts == texts_of(whole.choices)
    assert len(set(texts)) > 1
    assert sorted(finished) == [0, 1, 2]
    assert len(ids) == 1
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    entry = served.wait_for_request("stream")
    assert (entry["error_code"], entry["completion_tokens"]) == (None, usage.completion_tokens)
    # The first choice has the seed that was asked for.
    alone = client.chat.completions.create(**{**seeded, "n": 1})
    assert alone.choices[0].message.content == texts[0]


def test_no_counts_in_a_stream_that_did_not_ask_for_them(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(stream=True, n=2, **{**STORY, "model": "plain"}))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_several_prompts(client: OpenAI) -> None:
    prompts = ["One, two,", "The capital of France is"]
    body: dict[str, Any] = {"model": "smollm2", "max_tokens": 3, "temperature": 0}
    answer = client.completions.create(prompt=prompts, n=2, echo=True, **body)
    texts = texts_of(answer.choices)
    assert [
        text.startswith(prompt)
        for text, prompt in zip(texts, [*prompts[:1] * 2, *prompts[1:] * 2], strict=True)
    ]
    alone = [client.completions.create(prompt=prompt, **body) for prompt in prompts]
    assert texts[::2] == [
        prompt + single.choices[0].text for prompt, single in zip(prompts, alone, strict=True)
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(single.usage.prompt_tokens for single in alone if single.usage)
    assert answer.usage.completion_tokens == 12


def test_tokens_are_one_prompt(client: OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt=[504, 3575, 282], max_tokens=2)
    assert len(answer.choices) == 1
    two = client.completions.create(model="smollm2", prompt=[[504, 3575], [282]], max_tokens=2)
    assert len(two.choices) == 2


def test_echo_in_a_stream(client: OpenAI) -> None:
    chunks = list(
        client.completions.create(model="smollm2", prompt="One, two,", max_tokens=3, echo=True, stream=True)
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text.startswith("One, two,")
    assert text.count("One, two,") == 1
    assert len(text) > len("One, two,")


def test_the_best_of_several(client: OpenAI) -> None:
    body: dict[str, Any] = {
        "model": "smollm2",
        "prompt": "A dragon named",
        "max_tokens": 6,
        "temperature": 2.0,
        "seed": 3,
    }
    every = client.completions.create(n=5, logprobs=1, **body)
    best = client.completions.create(n=2, best_of=5, **body)
    assert best.choices[0].logprobs is None

    def mean(choice: Any) -> float:
        logprobs = [token["logprob"] for token in choice.logprobs.content]
        return float(sum(logprobs) / len(logprobs))

    likeliest = sorted(every.choices, key=mean, reverse=True)
    assert texts_of(best.choices) == [choice.text for choice in likeliest[:2]]
    # All of them were generated.
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/chat/completions", {"n": 17}, "n"),
        ("/chat/completions", {"best_of": 2}, "best_of"),
        ("/completions", {"prompt": ["a"] * 9, "n": 2}, "n"),
        ("/completions", {"n": 3, "best_of": 2}, "best_of"),
        ("/completions", {"best_of": 2, "stream": True}, "best_of"),
        ("/completions", {"echo": True, "logprobs": 2}, "echo"),
        ("/completions", {"echo": True, "prompt": [1, 2]}, "echo"),
        # The engine would take slots that are not reserved.
        ("/responses", {"input": "a", "n": 2}, "n"),
        ("/responses", {"input": "a", "n_cmpl": 2}, "n"),
        ("/messages", {"n_cmpl": 2}, "n"),
    ],
)
def test_what_is_refused(client: OpenAI, path: str, change: dict[str, Any], param: str) -> None:
    from openai import BadRequestError

    prompt = {"prompt": "a"} if path == "/completions" else {}
    body = {**STORY, **prompt, **change}
    with pytest.raises(BadRequestError) as refused:
        client.post(path, body=body, cast_to=object)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["param"] == param


def test_an_error_of_one_choice_is_the_error_of_all(client: OpenAI) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as refused:
        client.completions.create(model="smollm2", prompt=["a", "word " * 5000], max_tokens=2)
    assert refused.value.code == "context_length_exceeded"
