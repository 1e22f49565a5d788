"""Sizes and durations as text, such as "8GB" and "10m"; each formatted text can be parsed again."""

from __future__ import annotations

import re

from llb.texts.coded_text import CodedText

_SIZE_PATTERN = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KIB|MIB|GIB|TIB)?", re.IGNORECASE)
_BYTES_PER_UNIT = {
    "TB": 10**12,
    "TiB": 2**40,
    "GB": 10**9,
    "GiB": 2**30,
    "MB": 10**6,
    "MiB": 2**20,
    "KB": 10**3,
    "KiB": 2**10,
    "B": 1,
}
_BYTES_PER_UPPER_UNIT = {unit.upper(): size_bytes for unit, size_bytes in _BYTES_PER_UNIT.items()}
_NUMBER_PATTERN = re.compile(r"\d+(?:\.\d+)?")
_DURATION_PATTERN = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART_PATTERN = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_SECONDS_PER_UNIT = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Units that Go's durations have as well, with both signs for micro.
_SECONDS_PER_SHORT_UNIT = {"us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_SECONDS_PER_PARSED_UNIT = _SECONDS_PER_UNIT | _SECONDS_PER_SHORT_UNIT


def parse_size(text: str) -> int:
    """Return the bytes of "8GB", "512MiB" or a plain number. Raises ValueError."""
    match = _SIZE_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(CodedText("value_no_size", "is not a size such as 8GB"))
    return int(float(match[1]) * _BYTES_PER_UPPER_UNIT[(match[2] or "B").upper()])


def format_size(size_bytes: int) -> str:
    """Return the shortest text that `parse_size` turns into exactly `size_bytes`."""
    texts = (_format_number(size_bytes / factor) + unit for unit, factor in _BYTES_PER_UNIT.items())
    return min((text for text in texts if parse_size(text) == size_bytes), key=len, default=str(size_bytes))


def parse_duration(text: str) -> float:
    """Return the seconds of "10m", "1h30m" (as in Go), "90" or "-1" (never). Raises ValueError."""
    text = text.strip()
    length = text[1:] if text.startswith(("-", "+")) else text
    if _NUMBER_PATTERN.fullmatch(length):
        seconds = float(length)
    elif _DURATION_PATTERN.fullmatch(length):
        seconds = sum(
            float(number) * _SECONDS_PER_PARSED_UNIT[unit]
            for number, unit in _DURATION_PART_PATTERN.findall(length)
        )
    else:
        raise ValueError(CodedText("value_no_duration", "is not a duration such as 10m"))
    return -1.0 if text.startswith("-") else seconds


def format_duration(seconds: float) -> str:
    """Return `seconds` in the largest unit that divides them; "-1" for never, "0" for at once."""
    if seconds <= 0:
        return "0" if seconds == 0 else "-1"
    for unit, length_s in _SECONDS_PER_UNIT.items():
        if round(seconds / length_s) * length_s == seconds:
            return f"{round(seconds / length_s)}{unit}"
    return f"{_format_number(seconds)}s"


def _format_number(number: float) -> str:
    """Return `number` with at most three decimals and no trailing zeros."""
    return f"{number:.3f}".rstrip("0").rstrip(".")
