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
from llb.texts.coded_text import CodedText

if TYPE_CHECKING:
    import httpx2

MAX_RETRY_AFTER_S = 300.0
_COMMIT = re.compile("[0-9a-f]{40}")
HUB = CodedText("hub", "the Hub")

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
    status = response.status_code
    if status in (408, 429) or status >= 500:
        who = HUB if is_hub else file_host_name(response.url.host)
        return HubUnreachable(_status_text(who, status), _retry_after_s(response.headers))
    if not is_hub and "x-error-code" not in response.headers:
        # The signed link has expired; the next attempt gets a new one.
        return HubUnreachable(_status_text(file_host_name(response.url.host), status))
    return _error_of_hub_code(response, repo, filename, revision, has_token=has_token) or _error_of_status(
        status, repo, filename, has_token=has_token
    )


def _error_of_hub_code(
    response: httpx2.Response, repo: str, filename: str | None, revision: str | None, *, has_token: bool
) -> HubError | None:
    """Return the error for the Hub's error code; None if only the status is known."""
    import httpx2

    for name, value in _HF_HUB_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from huggingface_hub import errors
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    try:
        # The body is left out, because it may have any size and content.
        bare = httpx2.Response(response.status_code, headers=response.headers, request=response.request)
        bare.headers.pop("content-length", None)
        hf_raise_for_status(bare)
    except errors.GatedRepoError:
        if not has_token:
            return HubGated(
                CodedText(
                    "hub_gated",
                    "{repo} is gated: accept its licence on its page at the Hub, "
                    "and set HF_TOKEN to a token of that account",
                    repo=repo,
                )
            )
        return HubGated(
            CodedText(
                "hub_gated_for_token",
                "{repo} is gated and the account of HF_TOKEN may not read it yet: "
                "accept its licence on its page at the Hub",
                repo=repo,
            )
        )
    except errors.RepositoryNotFoundError:
        if not has_token:
            return HubNotFound(
                CodedText(
                    "hub_no_repository",
                    "The Hub has no repository {repo}, or it is private and HF_TOKEN is not set",
                    repo=repo,
                )
            )
        return HubNotFound(
            CodedText(
                "hub_no_repository_for_token",
                "The Hub has no repository {repo}, or HF_TOKEN may not see it",
                repo=repo,
            )
        )
    except errors.RevisionNotFoundError:
        return HubNotFound(_no_revision_text(repo, str(revision)))
    except errors.RemoteEntryNotFoundError:
        return HubNotFound(_no_file_text(repo, str(filename)))
    except errors.DisabledRepoError:
        return HubForbidden(
            CodedText("hub_access_disabled", "The Hub has disabled access to {repo}", repo=repo)
        )
    except errors.HfHubHTTPError:
        pass
    return None


def _error_of_status(status: int, repo: str, filename: str | None, *, has_token: bool) -> HubError:
    if status == 401:
        if not has_token:
            return HubForbidden(
                CodedText("hub_needs_token", "The Hub requires a token for {repo}: set HF_TOKEN", repo=repo)
            )
        return HubForbidden(
            CodedText(
                "hub_token_rejected",
                "The Hub does not accept HF_TOKEN: it is mistyped, expired or revoked",
            )
        )
    if status in (403, 451):
        if not has_token:
            return HubForbidden(CodedText("hub_refused", "The Hub refuses access to {repo}", repo=repo))
        return HubForbidden(
            CodedText(
                "hub_refused_token",
                "The Hub refuses access to {repo}; check the permissions of HF_TOKEN",
                repo=repo,
            )
        )
    if status in (404, 410):
        if filename:
            return HubNotFound(_no_file_text(repo, filename))
        return HubNotFound(
            CodedText("hub_lacks_repository", "The Hub does not have the repository {repo}", repo=repo)
        )
    return HubInvalidResponse(
        CodedText(
            "hub_unexpected_status",
            "The Hub answers {status} to a valid request; check HF_ENDPOINT and the proxy",
            status=status,
        )
    )


def _no_revision_text(repo: str, revision: str) -> CodedText:
    if _COMMIT.fullmatch(revision):
        return CodedText(
            "hub_no_commit",
            "The Hub no longer has commit {commit} of {repo}: pull the model again to get "
            "its present version, or change the revision that the catalogue names",
            commit=revision[:12],
            repo=repo,
        )
    return CodedText(
        "hub_no_revision", "The Hub has no revision {revision} of {repo}", revision=revision, repo=repo
    )


def _status_text(who: CodedText, status: int) -> CodedText:
    return CodedText("hub_status", "{who} answers {status}", who=who, status=status)


def _no_file_text(repo: str, filename: str) -> CodedText:
    return CodedText("hub_no_file", "The repository {repo} has no file {file}", repo=repo, file=filename)


def file_host_name(host: str | None) -> CodedText:
    """Return the display name of the file host to which the Hub redirects."""
    return CodedText("hub_file_host", "the file host of the Hub ({host})", host=str(host))


def redirect_text(limit: int) -> CodedText:
    """Return the sentence for a Hub that redirects too often."""
    return CodedText("hub_redirects", "The Hub redirected more than {limit} times", limit=limit)


def unreachable_text(who: CodedText, cause: str) -> CodedText:
    """Return the clause for a Hub, or its file host, that does not answer because of `cause`."""
    return CodedText("hub_unreachable", "{who} cannot be reached: {cause}", who=who, cause=cause)


def describe_network_error(error: BaseException) -> CodedText:
    """Return the cause of a network error as a clause without an address."""
    import httpx2

    chain: BaseException | None = error
    while chain is not None:
        match chain:
            case socket.gaierror():
                return CodedText(
                    "network_no_name", "its name was not found, so this host is probably offline"
                )
            case ConnectionRefusedError():
                return CodedText("network_refused", "the connection was refused")
            case ssl.SSLCertVerificationError():
                return CodedText(
                    "network_certificate",
                    "its certificate is not trusted (behind a company proxy, set SSL_CERT_FILE)",
                )
            case httpx2.ProxyError():
                return CodedText("network_proxy", "the proxy rejected the connection")
            case httpx2.TimeoutException():
                return CodedText("network_timeout", "it did not answer in time")
        chain = chain.__cause__ or chain.__context__
    return CodedText("network_broken", "the connection broke")


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
