"""Locked packages: they match pyproject.toml and the installed versions."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.licences import (
    LOCK_FILE,
    PROGRAM_FILE_LOCK,
    ROOT,
    TEST_LOCK_FILE,
    LockedPackage,
    parse_lock_file,
    render_licences,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def by_name(found: list[LockedPackage]) -> dict[str, list[LockedPackage]]:
    named: dict[str, list[LockedPackage]] = {}
    for pin in found:
        named.setdefault(pin.name, []).append(pin)
    return named


@pytest.mark.parametrize("lock", [LOCK_FILE, TEST_LOCK_FILE], ids=lambda lock: lock.name)
def test_every_package_is_locked_with_its_hashes(lock: object) -> None:
    found = [*parse_lock_file(LOCK_FILE if lock == LOCK_FILE else TEST_LOCK_FILE)]
    assert len(found) > 40
    assert [pin for pin in found if not pin.hash_count] == []


@pytest.mark.parametrize(
    ("lock", "asked"),
    [
        (LOCK_FILE, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["build"]]),
        (TEST_LOCK_FILE, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]),
    ],
    ids=["run", "test"],
)
def test_the_locks_go_with_what_is_asked_for(lock: object, asked: list[str]) -> None:
    found = by_name([*parse_lock_file(LOCK_FILE if lock == LOCK_FILE else TEST_LOCK_FILE)])
    for text in asked:
        requirement = Requirement(text)
        locked = found.get(canonicalize_name(requirement.name))
        assert locked is not None, f"{requirement.name} is not locked: ./install.sh lock"
        assert all(requirement.specifier.contains(pin.version, prereleases=True) for pin in locked), text


def test_both_locks_have_the_same_versions() -> None:
    tests = by_name([*parse_lock_file(TEST_LOCK_FILE)])
    for name, locked in by_name([*parse_lock_file(LOCK_FILE)]).items():
        assert {pin.version for pin in locked} <= {pin.version for pin in tests[name]}, name


def test_what_is_tested_is_what_is_locked() -> None:
    for pin in parse_lock_file(TEST_LOCK_FILE):
        if pin.is_applicable:
            assert metadata.version(pin.name) == pin.version, (
                f"{pin.name}: ./install.sh lock, or install again"
            )


def test_the_licences_are_told() -> None:
    assert (ROOT / "docs" / "licences.md").read_text(encoding="utf-8") == render_licences()
    assert "not said" not in render_licences()


def test_the_bill_of_materials_is_of_the_lock() -> None:
    bill = json.loads((ROOT / "docs" / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    told = {(canonicalize_name(part["name"]), part["version"]) for part in bill["components"]}
    locked = [*parse_lock_file(LOCK_FILE), *parse_lock_file(PROGRAM_FILE_LOCK)]
    assert told == {(pin.name, pin.version) for pin in locked if pin.is_applicable}
