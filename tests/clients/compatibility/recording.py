"""Recorded requests of a program as JSON: request and shape of the answer, without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.clients.compatibility.programs import CLIENTS
from tests.clients.compatibility.recorder import Exchange
from tests.clients.compatibility.shape import describe_answer

RECORDINGS = CLIENTS / "recordings"
# Texts of programs are theirs, and the first words show what they are.
_LONGEST_TEXT = 120
_CREDENTIALS = {"authorization", "x-api-key"}
_KEPT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-encoding",
        "content-type",
        "user-agent",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "openai-beta",
        "expect",
        "transfer-encoding",
    }
)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,}", re.IGNORECASE)


def to_requests(exchanges: list[Exchange], replaced: dict[str, str]) -> list[dict[str, Any]]:
    """Return the recorded form of exchanges, one of each kind. `replaced` are texts of this machine."""
    kinds: dict[str, dict[str, Any]] = {}
    for exchange in exchanges:
        request = _to_request(exchange, replaced)
        kind = json.dumps([request[name] for name in ("step", "method", "path", "answer")])
        roles = re.findall(r'"(?:role|type)": ?"\w+"', json.dumps(request.get("body")))
        kinds.setdefault(kind + "".join(sorted(set(roles))), request)
    return list(kinds.values())


def _to_request(exchange: Exchange, replaced: dict[str, str]) -> dict[str, Any]:
    sent = {name.lower(): value for name, value in exchange.headers}
    request: dict[str, Any] = {
        "step": exchange.step,
        "method": exchange.method,
        "path": _without_ids(exchange.path, replaced),
        "headers": {name: value for name, value in sorted(sent.items()) if name in _KEPT_HEADERS},
        "credential": next((name for name in sorted(_CREDENTIALS) if name in sent), None),
    }
    if exchange.body:
        request["body"] = _shorten(json.loads(exchange.body), replaced)
    answer = describe_answer(exchange.content_type, exchange.answer)
    if exchange.is_cut:
        answer.pop("last", None)
    request["answer"] = {"status": exchange.status, **answer}
    return request


def _shorten(value: Any, replaced: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _shorten(item, replaced) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item, replaced) for item in value]
    if not isinstance(value, str):
        return value
    text = _without_ids(value, replaced)
    return text if len(text) <= _LONGEST_TEXT or _is_document(text) else text[:_LONGEST_TEXT] + " …"


def _without_ids(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return _ID.sub(lambda found: re.sub(r"[0-9a-fA-F]", "0", found[0]), text)


def _is_document(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def write_recording(program: str, version: str, requests: list[dict[str, Any]]) -> None:
    """Write the recording of a program."""
    RECORDINGS.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(request, ensure_ascii=False) for request in requests)
    head = json.dumps({"program": program, "version": version})[:-1]
    (RECORDINGS / f"{program}.json").write_text(f'{head}, "requests": [\n{lines}\n]}}\n', encoding="utf-8")


def read_recordings() -> dict[str, dict[str, Any]]:
    """Return all recordings by program."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDINGS.glob("*.json"))
    }


def recording_path(program: str) -> Path:
    """Return the file of the recording of a program."""
    return RECORDINGS / f"{program}.json"
