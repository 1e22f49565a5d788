"""Errors of the Hub: which one a response is, what it says to a person, when to come again."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest

from llb.hub import HubError, HubForbidden, HubGated, HubInvalidResponse, HubNotFound, HubUnreachable
from llb.hub.error_mapping import MAX_RETRY_AFTER_S, describe_network_error, error_from_response

REPO, FILE = "org/name", "tiny.gguf"
COMMIT = "c0ffee" + "0" * 34


def error_of(
    status: int,
    headers: dict[str, str] | None = None,
    *,
    url: str = f"https://hub.example/{REPO}/resolve/main/{FILE}",
    filename: str | None = FILE,
    revision: str | None = None,
    has_token: bool = False,
) -> HubError:
    response = httpx2.Response(status, headers=headers, content=b"x" * 9, request=httpx2.Request("GET", url))
    return error_from_response(
        response, REPO, filename, revision, is_hub="hub.example" in url, has_token=has_token
    )


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words", "words_with_token"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, HubForbidden,
         "requires a token for org/name: set HF_TOKEN",
         "does not accept HF_TOKEN: it is mistyped, expired or revoked"),
        (403, {}, HubForbidden, "refuses access to org/name", "check the permissions of HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, HubGated, "set HF_TOKEN to a token of that account",
         "the account of HF_TOKEN may not read it yet"),
        # The Hub says this of what an anonymous caller may not see.
        (401, {}, HubNotFound, "HF_TOKEN is not set", "HF_TOKEN may not see it"),
        (404, {"X-Error-Code": "RepoNotFound"}, HubNotFound, "HF_TOKEN is not set", "may not see it"),
        (404, {"X-Error-Code": "EntryNotFound"}, HubNotFound, "org/name has no file tiny.gguf",
         "org/name has no file tiny.gguf"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, HubForbidden,
         "has disabled access to org/name", "has disabled access to org/name"),
        (451, {}, HubForbidden, "refuses access to org/name", "check the permissions of HF_TOKEN"),
        (410, {}, HubNotFound, "has no file tiny.gguf", "has no file tiny.gguf"),
        (418, {}, HubInvalidResponse, "answers 418 to a valid request", "answers 418 to a valid request"),
    ],
)  # fmt: skip
def test_what_to_do_depends_on_the_token(
    status: int, headers: dict[str, str], kind: type[HubError], words: str, words_with_token: str
) -> None:
    for has_token, expected in ((False, words), (True, words_with_token)):
        error = error_of(status, headers, has_token=has_token)
        assert type(error) is kind
        assert expected in str(error)


def test_a_repository_without_a_file_in_question() -> None:
    assert str(error_of(404, filename=None)) == "The Hub does not have the repository org/name"


def test_a_commit_that_is_gone_has_a_remedy_and_a_branch_has_none() -> None:
    missing = {"X-Error-Code": "RevisionNotFound"}
    assert "no longer has commit c0ffee000000 of org/name: pull" in str(
        error_of(404, missing, revision=COMMIT)
    )
    assert str(error_of(404, missing, revision="main")) == "The Hub has no revision main of org/name"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_later_attempt_may_succeed(status: int) -> None:
    error = error_of(status)
    assert isinstance(error, HubUnreachable)
    assert str(error) == f"the Hub answers {status}"


def test_a_signed_link_of_the_file_host_expires_whatever_its_status() -> None:
    for status in (400, 403, 404, 503):
        error = error_of(status, url="https://cdn.example/x?Signature=secret")
        assert isinstance(error, HubUnreachable)
        assert str(error) == f"the file host of the Hub (cdn.example) answers {status}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "86400"}, MAX_RETRY_AFTER_S),
        ({"Retry-After": "9" * 400}, MAX_RETRY_AFTER_S),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, MAX_RETRY_AFTER_S),
        ({"Retry-After": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        # It has requests left: something else is the cause.
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({}, None),
    ],
)
def test_when_to_come_again(headers: dict[str, str], seconds: float | None) -> None:
    error = error_of(429, headers)
    assert isinstance(error, HubUnreachable)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name was not found"),
        (ConnectionRefusedError(111, "refused"), "the connection was refused"),
        (ssl.SSLCertVerificationError("self-signed"), "its certificate is not trusted"),
        (httpx2.ProxyError("407"), "the proxy rejected the connection"),
        (httpx2.ReadTimeout("late"), "it did not answer in time"),
        (ConnectionResetError(104, "reset"), "the connection broke"),
    ],
)
def test_a_network_error_is_told_by_its_innermost_known_cause(cause: Exception, words: str) -> None:
    outer = httpx2.ConnectError("https://hub.example:443 failed")
    outer.__context__ = cause
    for error in (cause, outer):
        assert describe_network_error(error).startswith(words)
        assert "hub.example" not in describe_network_error(error)
