"""Error mapping: from responses of the Hub and network errors to `HubError`."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from llb.hub.errors import HubError, HubForbidden, HubGated, HubInvalidResponse, HubNotFound, HubUnreachable

if TYPE_CHECKING:
    import httpx2

MAX_RETRY_AFTER_S = 300.0
_COMMIT = re.compile("[0-9a-f]{40}")

_HF_HUB_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def error_from_response(
    response: httpx2.Response,
    repo: str,
    filename: str | None,
    revision: str | None,
    *,
    is_hub: bool,
    has_token: bool,
) -> HubError:
    """Return the error of a response with status 400 or more; huggingface_hub interprets the Hub's codes."""
    import httpx2

    for name, value in _HF_HUB_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from huggingface_hub import errors
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    status = response.status_code
    if status in (408, 429) or status >= 500:
        who = "the Hub" if is_hub else f"the file host of the Hub ({response.url.host})"
        return HubUnreachable(f"{who} answers {status}", _retry_after_s(response.headers))
    if not is_hub and "x-error-code" not in response.headers:
        # The signed link has expired; the next attempt gets a new one.
        return HubUnreachable(f"the file host of the Hub ({response.url.host}) answers {status}")
    try:
        # Without the body, which may have any size and content.
        bare = httpx2.Response(status, headers=response.headers, request=response.request)
        bare.headers.pop("content-length", None)
        hf_raise_for_status(bare)
    except errors.GatedRepoError:
        if not has_token:
            return HubGated(
                f"{repo} is gated: accept its licence on its page at the Hub, "
                "and set HF_TOKEN to a token of that account"
            )
        return HubGated(
            f"{repo} is gated and the account of HF_TOKEN may not read it yet: "
            "accept its licence on its page at the Hub"
        )
    except errors.RepositoryNotFoundError:
        hint = "or it is private and HF_TOKEN is not set" if not has_token else "or HF_TOKEN may not see it"
        return HubNotFound(f"The Hub has no repository {repo}, {hint}")
    except errors.RevisionNotFoundError:
        if _COMMIT.fullmatch(revision or ""):
            return HubNotFound(
                f"The Hub no longer has commit {str(revision)[:12]} of {repo}: pull the model again to get "
                "its present version, or change the revision that the catalogue names"
            )
        return HubNotFound(f"The Hub has no revision {revision} of {repo}")
    except errors.RemoteEntryNotFoundError:
        return HubNotFound(f"The repository {repo} has no file {filename}")
    except errors.DisabledRepoError:
        return HubForbidden(f"The Hub has disabled access to {repo}")
    except errors.HfHubHTTPError:
        pass
    if status == 401:
        if not has_token:
            return HubForbidden(f"The Hub requires a token for {repo}: set HF_TOKEN")
        return HubForbidden("The Hub does not accept HF_TOKEN: it is mistyped, expired or revoked")
    if status in (403, 451):
        hint = "" if not has_token else "; check the permissions of HF_TOKEN"
        return HubForbidden(f"The Hub refuses access to {repo}{hint}")
    if status in (404, 410):
        return HubNotFound(
            f"The Hub does not have {filename or 'the repository'}{f' of {repo}' if filename else f' {repo}'}"
        )
    return HubInvalidResponse(f"The Hub answers {status} to a valid request; check HF_ENDPOINT and the proxy")


def describe_network_error(error: BaseException) -> str:
    """Return the cause of a network error as a clause without an address."""
    import httpx2

    chain: BaseException | None = error
    while chain is not None:
        match chain:
            case socket.gaierror():
                return "its name was not found, so this host is probably offline"
            case ConnectionRefusedError():
                return "the connection was refused"
            case ssl.SSLCertVerificationError():
                return "its certificate is not trusted (behind a company proxy, set SSL_CERT_FILE)"
            case httpx2.ProxyError():
                return "the proxy rejected the connection"
            case httpx2.TimeoutException():
                return "it did not answer in time"
        chain = chain.__cause__ or chain.__context__
    return "the connection broke"


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Return the delay that the Hub asks for (RFC 9110 §10.2.3 or its `RateLimit`), at most 5 minutes."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    text = headers.get("retry-after", "").strip()
    seconds: float | None = float(text) if text.isdecimal() else None
    if seconds is None and text:
        with suppress(ValueError, OverflowError):
            seconds = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    if seconds is None:
        limit = parse_ratelimit_headers(headers)
        seconds = float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)
