"""Lists of models in the shape of each kind of endpoint, and documents that are none."""

from __future__ import annotations

from typing import Any

import pytest

from llb import errors
from llb.gateway.endpoints.checks import EndpointChecks
from llb.gateway.endpoints.model_lists import (
    MAX_CONTEXT_TOKENS,
    MAX_PAGES,
    ModelListing,
    list_models,
    parse_ollama_tags,
    parse_openai_list,
    positive_int,
)
from llb.policy.endpoints.addresses import parse_base_url
from llb.wire import Capability, EndpointKind
from tests.gateway.endpoints.endpoint_fixture import FakeHttpClient, make_registry

URL = parse_base_url("http://127.0.0.1:9/v1")


async def listing_of(kind: EndpointKind, answers: dict[str, Any]) -> ModelListing:
    async def store(_endpoint: object) -> None: ...

    checks = EndpointChecks(make_registry(), FakeHttpClient(answers).as_client(), store)
    return await list_models(checks.probe_client(URL, kind, None), kind)


def context_of(entry: dict[str, Any]) -> int | None:
    [model] = parse_openai_list({"data": [{"id": "m", **entry}]}, EndpointKind.OPENAI_COMPATIBLE)
    return model.context_length


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"context_window": 8192, "max_input_tokens": 9}, 8192),
        # The loaded context counts, not the largest possible one.
        ({"max_context_length": 32_768, "loaded_context_length": 2048}, 2048),
        ({"meta": {"n_ctx": 512}}, 512),
        ({"meta": {"llamaswap": {"n_ctx": 256}, "n_ctx": 512}}, 256),
        ({"max_model_len": "many", "context_length": 0, "meta": []}, None),
        ({}, None),
    ],
)
def test_where_programs_tell_the_context(entry: dict[str, Any], length: int | None) -> None:
    assert context_of(entry) == length


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), (0, None), (-5, None), (True, None), (2.0, None), ("8", None), (MAX_CONTEXT_TOKENS, None)],
)
def test_numbers_that_can_be_counts(value: Any, expected: int | None) -> None:
    assert positive_int(value) == expected


def test_an_adapter_has_the_context_of_its_model() -> None:
    entries = [{"id": "lora", "parent": "base"}, {"id": "base", "max_model_len": 4096}, {"id": "other"}]
    models = parse_openai_list({"data": entries}, EndpointKind.VLLM, context_length=7)
    assert [(model.name, model.context_length) for model in models] == [
        ("lora", 4096), ("base", 4096), ("other", 7)
    ]  # fmt: skip


def test_another_llb_lists_its_own_models_only() -> None:
    """Two that list one another would make names without end."""
    entries = [{"id": "a", "owned_by": "llb"}, {"id": "box/b", "owned_by": "box"}, {"id": "c"}]
    models = parse_openai_list({"data": entries}, EndpointKind.LLB)
    assert [model.name for model in models] == ["a", "c"]


def test_entries_without_a_usable_name_are_left_out() -> None:
    entries: list[Any] = [{"id": "a"}, {"id": "a"}, {"id": 5}, {}, "b", {"id": "c\n"}, {"id": ""}]
    assert [model.name for model in parse_openai_list({"data": entries}, EndpointKind.VLLM)] == ["a"]


def test_the_prefix_of_google_is_no_part_of_a_name() -> None:
    [model] = parse_openai_list({"data": [{"id": "models/gemini"}]}, EndpointKind.GOOGLE)
    assert model.name == "gemini"


@pytest.mark.parametrize(
    ("kind", "capabilities"),
    [
        ("embeddings", (Capability.EMBEDDING,)),
        ("reranker", (Capability.RERANKING,)),
        ("vlm", (Capability.TEXT_GENERATION, Capability.IMAGE_UNDERSTANDING)),
        ("llm", (Capability.TEXT_GENERATION,)),
        (None, ()),
    ],
)
def test_capabilities_as_far_as_they_are_told(kind: Any, capabilities: tuple[Capability, ...]) -> None:
    [model] = parse_openai_list({"data": [{"id": "m", "type": kind}]}, EndpointKind.LM_STUDIO)
    assert model.capabilities == capabilities


def test_ollama_tells_which_models_are_elsewhere() -> None:
    here = {"name": "here", "details": {"context_length": 4096}}
    models = parse_ollama_tags({"models": [here, {"model": "there", "remote_host": "x"}, {"details": 1}, 5]})
    assert [(model.name, model.context_length, model.is_remote) for model in models] == [
        ("here", 4096, False), ("there", None, True)
    ]  # fmt: skip


@pytest.mark.parametrize("document", [None, [], {"data": {}}, {"data": [], "error": "x"}, {"models": {}}])
def test_what_is_no_list(document: Any) -> None:
    with pytest.raises(errors.EndpointUnknown):
        parse_openai_list(document, EndpointKind.VLLM)
    with pytest.raises(errors.EndpointUnknown):
        parse_ollama_tags(document)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, errors.EndpointNeedsKey),
        (403, errors.EndpointNeedsKey),
        (302, errors.EndpointUnknown),
        (500, errors.EndpointUnknown),
    ],
)
async def test_answers_without_a_list(status: int, expected: type[errors.LlbError]) -> None:
    with pytest.raises(expected):
        await listing_of(EndpointKind.VLLM, {"/v1/models": (status, {})})


async def test_llama_server_tells_context_and_slots_beside_its_list() -> None:
    props = {"total_slots": 4, "default_generation_settings": {"n_ctx": 8192}}
    found = await listing_of(EndpointKind.LLAMA_CPP, {"/v1/models": {"data": [{"id": "m"}]}, "/props": props})
    assert (found.models[0].context_length, found.slots) == (8192, 4)
    # A router refuses the second question.
    found = await listing_of(EndpointKind.LLAMA_CPP, {"/v1/models": {"data": [{"id": "m"}]}})
    assert (found.models[0].context_length, found.slots) == (None, None)


async def test_lm_studio_is_asked_in_the_ways_of_its_versions() -> None:
    entry = {"key": "m", "type": "llm", "max_context_length": 9000}
    loaded = {"loaded_instances": [{"config": {"context_length": 2048}}]}
    for more, length in (({}, 9000), (loaded, 2048)):
        found = await listing_of(EndpointKind.LM_STUDIO, {"/api/v1/models": {"models": [{**entry, **more}]}})
        assert found.models[0].context_length == length
    # Before that, in OpenAI's shape, and once without it.
    for answers in (
        {"/api/v0/models": {"data": [{"id": "m"}]}},
        {"/api/v0/models": {"error": "x"}, "/v1/models": {"data": [{"id": "m"}]}},
    ):
        assert [model.name for model in (await listing_of(EndpointKind.LM_STUDIO, answers)).models] == ["m"]


async def test_tgi_has_one_model() -> None:
    info = {"model_id": "m", "max_total_tokens": 4096, "max_concurrent_requests": 128}
    found = await listing_of(EndpointKind.TGI, {"/info": info})
    assert (found.models[0].name, found.models[0].context_length, found.slots) == ("m", 4096, 128)
    with pytest.raises(errors.EndpointUnknown, match="which model"):
        await listing_of(EndpointKind.TGI, {"/info": {"model_id": None}})


async def test_pages_of_anthropic_are_read_up_to_a_number() -> None:
    first, second = "/v1/models?limit=1000", "/v1/models?limit=1000&after_id=a%2F1"
    pages = {
        first: {"data": [{"id": "a/1"}], "has_more": True, "last_id": "a/1"},
        second: {"data": [{"id": "b"}], "has_more": False, "last_id": "b"},
    }
    found = await listing_of(EndpointKind.ANTHROPIC, pages)
    assert [model.name for model in found.models] == ["a/1", "b"]
    client = FakeHttpClient({first: pages[first], second: {**pages[first]}})

    async def store(_endpoint: object) -> None: ...

    checks = EndpointChecks(make_registry(), client.as_client(), store)
    await list_models(checks.probe_client(URL, EndpointKind.ANTHROPIC, None), EndpointKind.ANTHROPIC)
    assert len(client.paths) == MAX_PAGES
    assert client.headers[b"anthropic-version"]
