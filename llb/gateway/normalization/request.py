"""Normalization of one request: the steps of each route, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Raw, Struct

from llb.gateway.normalization.anthropic_messages import normalize_blocks, normalize_system
from llb.gateway.normalization.chat_messages import normalize_messages
from llb.gateway.normalization.content import invalid
from llb.gateway.normalization.document import RequestDocument
from llb.gateway.normalization.options import (
    normalize_logprobs,
    normalize_reasoning,
    normalize_response_format,
    number_of_logprobs,
)
from llb.gateway.normalization.responses_input import normalize_input
from llb.gateway.normalization.scalars import normalize_scalars, normalize_stops, normalize_token_limits
from llb.gateway.normalization.template_fit import fit_messages, split_system, text_of
from llb.gateway.normalization.tool_history import blocks_as_text, chat_history_as_text, items_as_text
from llb.gateway.normalization.tools import ToolsForm, normalize_tools
from llb.wire import TemplateSupport


class NormalizedBody(Struct, frozen=True):
    """Body for the engine, None for the one that the client sent, and what the client does not get."""

    body: bytes | None
    ignored: tuple[str, ...] = ()


def normalize_request(
    path: str, raw_fields: dict[str, Raw], support: TemplateSupport | None = None
) -> NormalizedBody:
    """Normalize the fields of a request for the engine's route `path`.

    For any other path only nulls, numbers and flags are normalized, which are the same in every dialect.
    `support` is what the chat template of the model can print, None while that is unknown. Raises
    `InvalidRequest` that names the field.
    """
    document = RequestDocument(raw_fields)
    document.remove_nulls()
    normalize_scalars(document)
    normalize = _ROUTES.get(path)
    if normalize is not None:
        normalize(document, support)
    return NormalizedBody(document.encode() if document.is_changed else None, tuple(document.ignored))


def _normalize_chat(document: RequestDocument, support: TemplateSupport | None) -> None:
    normalize_token_limits(document, "max_tokens")
    normalize_stops(document, "stop")
    normalize_reasoning(document)
    normalize_response_format(document)
    normalize_tools(document, ToolsForm.CHAT, supported=_has_tools(support))
    normalize_logprobs(document, has_tools="tools" in document)
    if "messages" in document:
        messages = normalize_messages(document.get("messages"))
        if not messages:
            raise invalid("messages", "must have at least one message")
        if support is not None and not support.tools:
            messages = chat_history_as_text(messages)
        document.set("messages", fit_messages(messages, support))


def _normalize_completion(document: RequestDocument, _support: TemplateSupport | None) -> None:
    normalize_token_limits(document, "max_tokens")
    normalize_stops(document, "stop")
    if "logprobs" in document:
        document.set("logprobs", number_of_logprobs(document.get("logprobs")))


def _normalize_responses(document: RequestDocument, support: TemplateSupport | None) -> None:
    normalize_token_limits(document, "max_output_tokens")
    normalize_stops(document, "stop")
    normalize_reasoning(document)
    normalize_tools(document, ToolsForm.RESPONSES, supported=_has_tools(support))
    normalize_input(document)
    items = document.get("input")
    if not isinstance(items, list):
        return
    if support is not None and not support.tools:
        items = items_as_text(items)
    instructions, items = split_system(items, support, document.get("instructions"))
    document.set("input", fit_messages(items, support, text_type="input_text"))
    if instructions is not None:
        document.set("instructions", instructions)


def _normalize_anthropic(document: RequestDocument, support: TemplateSupport | None) -> None:
    normalize_token_limits(document, "max_tokens", has_default=True)
    normalize_stops(document, "stop_sequences")
    normalize_reasoning(document)
    normalize_tools(document, ToolsForm.ANTHROPIC, supported=_has_tools(support))
    normalize_system(document)
    if "messages" not in document:
        return
    messages = normalize_blocks(document.get("messages"), document)
    if not messages:
        raise invalid("messages", "must have at least one message")
    if support is not None and not support.tools:
        messages = blocks_as_text(messages)
    given = document.get("system")
    own_text = given if isinstance(given, str) else text_of(given)
    system, messages = split_system(messages, support, own_text)
    if system != (own_text or None) and system is not None:
        document.set("system", system)
    document.set("messages", fit_messages(messages, support))


def _has_tools(support: TemplateSupport | None) -> bool | None:
    return None if support is None else support.tools


_ROUTES: Mapping[str, Callable[[RequestDocument, TemplateSupport | None], None]] = MappingProxyType(
    {
        "/v1/chat/completions": _normalize_chat,
        "/v1/completions": _normalize_completion,
        "/v1/responses": _normalize_responses,
        "/v1/responses/input_tokens": _normalize_responses,
        "/v1/messages": _normalize_anthropic,
        "/v1/messages/count_tokens": _normalize_anthropic,
    }
)
