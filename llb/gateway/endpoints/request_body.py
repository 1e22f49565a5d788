"""Body of a request as an endpoint gets it: the client's own, with only the fields in question changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.policy.endpoints import dialects
from llb.wire import EndpointKind
from llb.wire.decoding import DECODE_ERRORS

_USAGE_PATHS = frozenset({dialects.CHAT, dialects.COMPLETIONS})


class OutgoingBody(Struct, frozen=True):
    """Encoded body; `adds_usage`: the stream has a chunk with the usage that the client did not ask for."""

    body: bytes
    adds_usage: bool = False


def build_body(
    body: bytes,
    *,
    path: str,
    kind: EndpointKind,
    host: str,
    served_as: str,
    stream: bool,
    set_fields: Mapping[str, Any],
    strip_fields: Collection[str],
) -> OutgoingBody:
    """Return the body for an endpoint: model name, usage in a stream, fields to set and to leave out.

    The values of all other fields are passed on as they are, undecoded. Each field occurs once: some programs
    refuse a body in which one occurs twice, which is how llb adds fields for llama-server.
    """
    fields: dict[str, Any] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
    fields["model"] = served_as
    for name in dialects.unknown_fields(kind, host, path).intersection(fields):
        del fields[name]
    if host == dialects.OPENAI_HOST and path == dialects.CHAT and "max_tokens" in fields:
        # Reasoning models refuse the old name.
        fields.setdefault("max_completion_tokens", fields.pop("max_tokens"))
    adds_usage = False
    if stream and path in _USAGE_PATHS and dialects.wants_usage_option(host):
        options = _decode_mapping(fields.get("stream_options"))
        adds_usage = options.get("include_usage") is not True
        fields["stream_options"] = {**options, "include_usage": True}
    fields.update(set_fields)
    for name in strip_fields:
        fields.pop(name, None)
    if adds_usage and "stream_options" in strip_fields:
        adds_usage = False
    return OutgoingBody(msgspec.json.encode(fields), adds_usage)


def _decode_mapping(raw: Raw | None) -> dict[str, Any]:
    if raw is None:
        return {}
    try:
        value = msgspec.json.decode(raw)
    except DECODE_ERRORS:
        return {}
    return value if isinstance(value, dict) else {}
