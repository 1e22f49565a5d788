"""Interface of the translators of a streamed answer."""

from __future__ import annotations

from typing import Protocol

from llb.gateway.translation.token_usage import TokenUsage


class AnswerStream(Protocol):
    """Translator of one stream: `feed` for each piece, `finish` at its end.

    Both raise `ProviderFailure`. While `has_content` is false, nothing of what they returned needs to have
    reached the client, so that another target may be tried.
    """

    @property
    def has_content(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    @property
    def usage(self) -> TokenUsage: ...

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...
