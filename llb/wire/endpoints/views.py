"""Endpoints in the API: engines that other programs run, and clouds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from llb.texts.text_codes import TextCode
from llb.wire.models import Capability


class EndpointKind(StrEnum):
    """Program that answers at an endpoint."""

    LLB = "llb"
    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    SGLANG = "sglang"
    OLLAMA = "ollama"
    LM_STUDIO = "lmstudio"
    LOCAL_AI = "localai"
    TGI = "tgi"
    LLAMA_SWAP = "llama-swap"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OPENAI_COMPATIBLE = "openai-compatible"


class EndpointStatus(StrEnum):
    HEALTHY = "healthy"
    BUSY = "busy"
    RATE_LIMITED = "rate_limited"
    MISCONFIGURED = "misconfigured"
    OFFLINE = "offline"
    DISABLED = "disabled"


class KeySource(StrEnum):
    """Where the key of an endpoint comes from."""

    STORED = "stored"
    ENVIRONMENT = "environment"


class TierRates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in USD for a million tokens at a service tier, or of longer prompts.

    `output` is None for a model that generates nothing. Cached, cache-write and reasoning tokens without a
    price cost as any other; `cache_write` is for minutes, and the price for an hour is unknown without
    `cache_write_1h`.
    """

    input: float
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None


class ModelRates(TierRates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in USD for a million tokens, `request` for one request. Images without a price cost as text.

    Without a price, the cost of audio is unknown. `above` has the prices of prompts with more tokens than its
    key, which hold for all tokens; `service_tiers` those of service tiers such as `flex`, `priority` and
    `batch`, in which `request` and the prices of audio and images are the usual ones.
    """

    input_audio: float | None = None
    output_audio: float | None = None
    input_image: float | None = None
    output_image: float | None = None
    request: float | None = None
    above: dict[int, TierRates] = field(default_factory=dict)
    service_tiers: dict[str, TierRates] = field(default_factory=dict)


class EndpointModel(Struct, frozen=True, kw_only=True):
    """Model of an endpoint: `id` is its name at the endpoint, `served_as` its name here.

    `mapped_to` is the model of the catalogue that it is, if an administrator has confirmed it; `suggestion`
    one that it may be.
    """

    id: str
    served_as: str
    context_length: int | None = None
    capabilities: tuple[Capability, ...] = ()
    mapped_to: str | None = None
    suggestion: str | None = None


class EndpointKeyView(Struct, frozen=True, kw_only=True):
    """Key of an endpoint, which is never shown again."""

    set: bool
    last_four: str | None = None
    source: KeySource | None = None
    changed_at: str | None = None
    changed_by: str | None = None


class EndpointView(Struct, frozen=True, kw_only=True):
    """Engine elsewhere, or a cloud. `base_url`, `last_error` and the key are shown to administrators only.

    `model_filter` has the names of the models that are offered, None for all. `aliases` gives models further
    names: from the name here to the name at the endpoint. `prices` are by the name at the endpoint, `*` for
    all models; they come before those of the price list.
    """

    id: str
    name: str
    kind: EndpointKind
    base_url: str | None
    status: EndpointStatus
    enabled: bool
    cloud: bool
    weight: float
    priority: int
    max_concurrency: int | None
    timeout_s: float
    tags: tuple[str, ...]
    model_filter: tuple[str, ...] | None
    aliases: dict[str, str]
    set_fields: dict[str, Any]
    strip_fields: tuple[str, ...]
    prices: dict[str, ModelRates]
    models: tuple[EndpointModel, ...]
    latency_ms: float | None
    active_requests: int
    key: EndpointKeyView
    last_error: str | None
    last_error_code: TextCode | None = None
    checked_at: str | None


class EndpointList(Struct, frozen=True):
    endpoints: tuple[EndpointView, ...]


class NewEndpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Endpoint to add. Without `kind` llb finds out what answers at `base_url`; a cloud's kind has one."""

    base_url: str | None = None
    name: str | None = None
    kind: EndpointKind | None = None
    key: str | None = None
    enabled: bool = True
    cloud: bool | None = None
    weight: float = 1.0
    priority: int = 0
    max_concurrency: int | None = None
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    set_fields: dict[str, Any] = field(default_factory=dict)
    strip_fields: tuple[str, ...] = ()
    prices: dict[str, ModelRates] = field(default_factory=dict)


class EndpointPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of an endpoint: an omitted field stays. With a new `base_url` the `key` must be given again.

    `mapped` maps names of models at the endpoint to models of the catalogue; None as a value removes one.
    """

    base_url: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    kind: EndpointKind | UnsetType = UNSET
    key: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    cloud: bool | UnsetType = UNSET
    weight: float | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    max_concurrency: int | UnsetType | None = UNSET
    timeout_s: float | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    aliases: dict[str, str] | UnsetType = UNSET
    mapped: dict[str, str | None] | UnsetType = UNSET
    set_fields: dict[str, Any] | UnsetType = UNSET
    strip_fields: tuple[str, ...] | UnsetType = UNSET
    prices: dict[str, ModelRates] | UnsetType = UNSET
