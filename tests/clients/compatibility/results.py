"""Results of all runs, committed so that the document can be made from them."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.compatibility.programs import CLIENTS

RESULTS = CLIENTS / "results.json"


def read_results() -> dict[str, dict[str, Any]]:
    """Return `{program: {"version", "steps": {step: error or null}}}`."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def write_result(program: str, version: str, steps: dict[str, str | None]) -> None:
    """Replace the result of one program."""
    results = {**read_results(), program: {"version": version, "steps": steps}}
    text = json.dumps(dict(sorted(results.items())), indent=2, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")
