"""Device token: remembers, in a cookie, that a device has signed in to an account.

The token does not sign anyone in. It only gives the device its own allowance of login attempts, so that
guesses from elsewhere do not delay the owner.
"""

from __future__ import annotations

import hashlib
import hmac

from llb.security import tokens


def new_device_token(secret: str, user_id: str) -> str:
    """Return a token for a device on which `user_id` has signed in."""
    device_id = tokens.new_random_id()
    return f"{device_id}.{_signature(secret, user_id, device_id)}"


def device_id_of(token: str | None, secret: str, user_id: str | None) -> str | None:
    """Return the id of the device; None without a token, and for one of another account or forged."""
    device_id, _, signature = (token or "").partition(".")
    # Computed for an unknown account, too, so that the duration reveals nothing.
    expected = _signature(secret, user_id or "", device_id)
    is_valid = tokens.tokens_equal(signature, expected)
    return device_id if is_valid and user_id is not None else None


def _signature(secret: str, user_id: str, device_id: str) -> str:
    message = f"{user_id}:{device_id}".encode("utf-8", "surrogateescape")
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
