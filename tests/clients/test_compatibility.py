"""docs/compatibility.md says what the committed results say, which belong to the pinned versions."""

from __future__ import annotations

import pytest

from tests.clients.compatibility.document import DOCUMENT, update
from tests.clients.compatibility.environments import version_of
from tests.clients.compatibility.programs import Program
from tests.clients.compatibility.recording import read_recordings
from tests.clients.compatibility.results import read_results
from tests.clients.compatibility.selection import PROGRAMS

RESULTS = read_results()
RECORDINGS = read_recordings()


def test_the_document_is_what_the_results_say() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert update(text, RESULTS) == text, "run `python -m tests.clients --document`"


def test_every_program_has_a_result_and_nothing_else_has() -> None:
    assert RESULTS.keys() == RECORDINGS.keys() == PROGRAMS.keys()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_result_belongs_to_the_pinned_version_and_to_its_recording(program: Program) -> None:
    result, recording = RESULTS[program.name], RECORDINGS[program.name]
    assert result["version"] == recording["version"] == version_of(program)
    # LiteLLM looks for the details of a model without a key, and continues without them.
    refused = {
        request["step"]
        for request in recording["requests"]
        if request["answer"]["status"] >= 400 and request["credential"] is not None
    }
    assert not any(result["steps"].get(step, "") is None for step in refused), refused
