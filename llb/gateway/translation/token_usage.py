"""Token counts of providers in the dialects of OpenAI and Anthropic."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from llb.gateway.stream.usage_parser import MediaUsage, Usage, plausible_count


class PromptDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class CompletionDetails(Struct):
    reasoning_tokens: int | None = None


class ChatUsage(Struct):
    """`usage` of a chat. SGLang has `reasoning_tokens` at the top."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None


class OutputDetails(Struct):
    thinking_tokens: int | None = None
    reasoning_tokens: int | None = None


class CacheCreation(Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class MessagesUsage(Struct):
    """`usage` of Anthropic's Messages; cached tokens are not part of `input_tokens`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None
    service_tier: str | None = None
    cache_creation: CacheCreation | None = None


class TokenUsage(Struct, frozen=True):
    """Tokens of one answer. `prompt_tokens` includes cached and cache-write tokens; None is unknown."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    service_tier: str | None = None
    # Part of `cache_write_tokens` that is kept for an hour.
    cache_write_1h_tokens: int | None = None

    def updated(self, later: TokenUsage) -> TokenUsage:
        """Return these counts with those of a later, cumulative report."""
        fields = asdict(later)
        return replace(self, **{name: value for name, value in fields.items() if value is not None})

    @property
    def recorded(self) -> Usage:
        """The counts that the history has."""
        return Usage(
            plausible_count(self.prompt_tokens),
            plausible_count(self.completion_tokens),
            plausible_count(self.cached_tokens),
            cache_write_tokens=plausible_count(self.cache_write_tokens),
            media=MediaUsage(
                service_tier=self.service_tier,
                cache_write_1h_tokens=self.cache_write_1h_tokens,
                reasoning_tokens=self.reasoning_tokens,
            ),
        )

    def as_chat(self) -> dict[str, Any]:
        """`usage` in OpenAI's dialect, in which cached tokens are part of the prompt."""
        prompt, completion = self.prompt_tokens or 0, self.completion_tokens or 0
        details: dict[str, int] = {"cached_tokens": self.cached_tokens or 0}
        if self.cache_write_tokens:
            details["cache_write_tokens"] = self.cache_write_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": details,
        }
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage

    def as_messages(self) -> dict[str, Any]:
        """`usage` in Anthropic's dialect, in which they are not."""
        cached, written = self.cached_tokens or 0, self.cache_write_tokens or 0
        return {
            "input_tokens": max(0, (self.prompt_tokens or 0) - cached - written),
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": cached,
            "output_tokens": self.completion_tokens or 0,
        }


def usage_from_chat(usage: ChatUsage) -> TokenUsage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    generated = usage.completion_tokens
    if generated is not None and usage.prompt_tokens is not None and usage.total_tokens is not None:
        # Google and xAI leave thoughts out of the generated tokens, but not out of the total.
        generated = max(generated, usage.total_tokens - usage.prompt_tokens)
    return TokenUsage(
        usage.prompt_tokens,
        generated,
        None if prompt is None else prompt.cached_tokens,
        None if prompt is None else prompt.cache_write_tokens,
        usage.reasoning_tokens if completion is None else completion.reasoning_tokens,
    )


def usage_from_messages(usage: MessagesUsage, before: MessagesUsage | None = None) -> TokenUsage:
    """Counts of `usage`; missing ones are as in `before`, the report at the start of the stream."""
    merged = usage if before is None else merge_messages_usage(before, usage)
    parts = (merged.input_tokens, merged.cache_creation_input_tokens, merged.cache_read_input_tokens)
    details = merged.output_tokens_details
    reasoning = None if details is None else details.thinking_tokens or details.reasoning_tokens
    return TokenUsage(
        None if merged.input_tokens is None else sum(part or 0 for part in parts),
        merged.output_tokens,
        merged.cache_read_input_tokens,
        merged.cache_creation_input_tokens,
        reasoning,
        merged.service_tier,
        None if merged.cache_creation is None else merged.cache_creation.ephemeral_1h_input_tokens,
    )


def merge_messages_usage(before: MessagesUsage, later: MessagesUsage) -> MessagesUsage:
    """Counts are cumulative: a later one replaces the earlier, also if it is 0."""
    values = {}
    for name in MessagesUsage.__struct_fields__:
        value = getattr(later, name)
        values[name] = getattr(before, name) if value is None else value
    return MessagesUsage(**values)
