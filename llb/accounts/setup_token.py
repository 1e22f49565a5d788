"""Setup token: lets its holder choose the first password, once, in place of the default one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from llb.errors import InvalidCredentials
from llb.security import tokens
from llb.texts.coded_text import CodedText

SETUP_TOKEN_TTL_S = 86_400.0


class SetupToken:
    """Token of the link that is printed at the start while the default password is in use.

    Only its hash is kept, in memory: it ends with the process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hash: str | None = None
        self._expires_at = 0.0

    def issue(self) -> str:
        """Return a new token, which replaces an earlier one."""
        token = secrets.token_urlsafe(32)
        self._hash, self._expires_at = tokens.hash_token(token), self._clock() + SETUP_TOKEN_TTL_S
        return token

    def check(self, given: str) -> None:
        """Raise `InvalidCredentials` unless `given` is the token, unused and not expired."""
        expected = self._hash if self._clock() < self._expires_at else None
        if expected is None or not tokens.tokens_equal(tokens.hash_token(given), expected):
            raise InvalidCredentials(
                CodedText(
                    "setup_link_invalid",
                    "This link is not valid: it was used, has expired or is of an earlier start "
                    "of llb. Run 'llb password' on the host, or start llb again for a new link",
                )
            )

    def revoke(self) -> None:
        """End the token."""
        self._hash = None
