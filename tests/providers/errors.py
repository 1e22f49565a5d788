"""An error that a stand-in answers in the shape of its provider."""

from __future__ import annotations


class ProviderError(Exception):
    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, type: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type
