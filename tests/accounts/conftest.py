"""Fixtures shared with the tests of the API."""

from __future__ import annotations

from tests.api.conftest import server

__all__ = ["server"]
