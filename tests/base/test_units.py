"""Sizes and durations: parsing, formatting and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.base.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("512", 512), ("10kb", 10_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (8 * 10**9, "8GB"),
        (3 * 2**29, "1.5GiB"),
        (1_500_000_000, "1.5GB"),
        (512, "512B"),
        (0, "0B"),
        (123_456_789, "123456789B"),
    ],
)
def test_a_size_is_shown_as_short_as_is_exact(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 2**50) | st.integers(0, 5000).map(lambda number: number * 10**9))
def test_a_size_comes_back_as_it_was(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("90", 90),
        ("-1", -1),
        ("0", 0),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("5m0s", 300),
        ("-1m0s", -1),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-", "m", "10 m", "10x", "1h30", "--1", "1m-1s", "1e3", "."])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (600.0, "10m"),
        (90.0, "90s"),
        (5400.0, "90m"),
        (172_800.0, "2d"),
        (0.25, "250ms"),
        (0.0, "0"),
        (-1.0, "-1"),
    ],
)
def test_a_duration_is_shown_in_whole_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**9).map(float) | st.integers(0, 10**6).map(lambda number: number / 8))
def test_a_duration_comes_back_as_it_was(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
