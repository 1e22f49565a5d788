"""Clouds with a key in an environment variable; such a key is never stored."""

from __future__ import annotations

from collections.abc import Mapping

from llb.errors import SetupError
from llb.gateway.endpoints.endpoint import Endpoint, EndpointKey
from llb.policy.endpoints.addresses import InvalidBaseUrl, parse_base_url
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings
from llb.wire import EndpointKind, KeySource

# Variables with key and base URL, and the default of the latter.
CLOUD_VARIABLES = (
    (EndpointKind.OPENAI, "OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
    (EndpointKind.ANTHROPIC, "ANTHROPIC_API_KEY", "ANTHROPIC_API_BASE_URL", "https://api.anthropic.com/v1"),
    (
        EndpointKind.GOOGLE,
        "GOOGLE_API_KEY",
        "GOOGLE_API_BASE_URL",
        "https://generativelanguage.googleapis.com/v1beta/openai",
    ),
)
DEFAULT_CLOUD_URLS = {kind: url for kind, _, _, url in CLOUD_VARIABLES}


def read_cloud_endpoints(environment: Mapping[str, str]) -> list[Endpoint]:
    """Return an endpoint for each cloud with a key in `environment`; raises `SetupError` for a bad URL."""
    endpoints = []
    for kind, key_name, url_name, default_url in CLOUD_VARIABLES:
        key = environment.get(key_name, "").strip()
        if not key:
            continue
        try:
            url = parse_base_url(environment.get(url_name, "").strip() or default_url)
        except InvalidBaseUrl as error:
            raise SetupError(f"{url_name} {error}.") from None
        if not is_key(key):
            raise SetupError(f"{key_name} is not a key: it must have printable ASCII characters only.")
        record = EndpointRecord(
            id=kind.value,
            name=kind.value,
            base_url=url.text,
            settings=EndpointSettings(kind=kind, cloud=True),
            created_at=0.0,
        )
        endpoints.append(Endpoint(record, EndpointKey(key, KeySource.ENVIRONMENT)))
    return endpoints


def is_key(text: str) -> bool:
    """Whether `text` can be sent as a key in a header."""
    return 0 < len(text) <= 8192 and text.isascii() and text.isprintable() and " " not in text
