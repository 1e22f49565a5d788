"""Keep-alive of an engine that a request asks for. Pure."""

from __future__ import annotations

from msgspec import Struct


class KeepAlive(Struct, frozen=True):
    """Keep-alive that a request asks for, negative for "never unload".

    Unless it `may_shorten`, it only lengthens the present one, up to the host's own.
    """

    seconds: float
    may_shorten: bool = True

    def apply(self, current_s: float, default_s: float) -> float:
        """Return the keep-alive that follows `current_s`, where the host's own is `default_s`."""
        if self.may_shorten or current_s < 0:
            return self.seconds if self.may_shorten else current_s
        if self.seconds < 0 or 0 <= default_s < self.seconds:
            return max(current_s, default_s) if default_s >= 0 else default_s
        return max(current_s, self.seconds)
