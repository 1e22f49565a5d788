"""Fixtures shared with the tests of the API."""

from __future__ import annotations

from tests.api.conftest import db, server

__all__ = ["db", "server"]
