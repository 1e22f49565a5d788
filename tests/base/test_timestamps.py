"""Timestamps of the API."""

from __future__ import annotations

import pytest

from llb.base.timestamps import from_iso, to_iso
from llb.errors import InvalidRequest


def test_times_at_the_edge() -> None:
    assert to_iso(0.0) == "1970-01-01T00:00:00.000Z"
    assert to_iso(None) is None
    for text in ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00", "2027-01-31T21:00:00+09:00"):
        assert to_iso(from_iso(text, "t")) == "2027-01-31T12:00:00.000Z"
    with pytest.raises(InvalidRequest):
        from_iso("soon", "t")
