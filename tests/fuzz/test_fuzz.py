"""Some hundred cases of each target, as `python -m tests.fuzz` runs a hundred thousand; and those that once
were defects.
"""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import find_defect
from tests.fuzz.bounds import all_values
from tests.fuzz.targets import FuzzTarget, build_targets

CASES = 150


@pytest.fixture(scope="module")
def all_targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FuzzTarget]:
    return {target.name: target for target in build_targets(tmp_path_factory.mktemp("fuzz"))}


def test_every_field_with_every_kind_of_value(all_targets: dict[str, FuzzTarget]) -> None:
    target = all_targets["request bounds"]
    chance = random.Random(1)
    for name, value in all_values():
        with contextlib.suppress(*target.allowed_errors):
            target.parse(json.dumps({"model": "m", name: value}).encode(), chance)


def test_no_reader_is_upset(all_targets: dict[str, FuzzTarget]) -> None:
    found = [
        f"{target.name}: {why}"
        for target in all_targets.values()
        for number in range(CASES)
        if (why := find_defect(target, f"suite.{target.name}.{number}", measure_memory=number % 50 == 0))
        is not None
    ]
    assert found == []
    assert Path(__file__).exists()
