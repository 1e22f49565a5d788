"""Join client: one-off requests of a host that joins a balancer, moves with it or leaves it."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from llb.base.node_identity import Membership
from llb.cluster.join.dial import root_cause_message
from llb.errors import SetupError
from llb.security import tls_trust, tokens
from llb.wire import JoinReply, JoinRequest
from llb.wire.decoding import DECODE_ERRORS

REQUEST_TIMEOUT_S = 10.0
MAX_RESPONSE_BYTES = 65_536
CERTIFICATE_PATH = "/api/tls/certificate"
# Statuses of an llb's own errors; any other error status comes from something else.
_ERROR_STATUSES = frozenset({400, 401, 403, 409, 429, 503})
_MISDIRECTED_REQUEST = 421


class _ErrorFields(msgspec.Struct):
    message: str
    # Not read, but required: the body of another server must not pass for an llb's error.
    code: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields


class _ProofResponse(msgspec.Struct):
    proof: str


class _HttpResponse(Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error_message(self) -> str | None:
        """The message of an llb's error response; None for any other response."""
        if self.status not in _ERROR_STATUSES:
            return None
        try:
            return msgspec.json.decode(self.body, type=_ErrorBody).error.message
        except DECODE_ERRORS:
            return None


class _NoResponse(Exception):
    """No readable response; the message is the reason in a few words."""


async def determine_trust_anchor(url: str, fingerprint: str | None) -> str:
    """The trust anchor for the llb at `url`, whose certificate must have this fingerprint.

    Raises `SetupError`. No secret is sent before the server is verified.
    """
    if not url.startswith("https:"):
        if fingerprint is None:
            return tls_trust.SYSTEM_TRUST
        raise SetupError(
            f"The token was created by an llb that uses TLS: join it as https{url.removeprefix('http')}."
        )
    if fingerprint is None:
        return tls_trust.SYSTEM_TRUST
    try:
        await asyncio.to_thread(_send_request, "GET", url + CERTIFICATE_PATH)
        # Trusted by the system: its certificate may be renewed at any time.
        return tls_trust.SYSTEM_TRUST
    except _NoResponse:
        pass
    response = await _request(url, "GET", CERTIFICATE_PATH, verify=tls_trust.create_unverified_context())
    try:
        anchor = response.body.decode("ascii")
        if tokens.tokens_equal(tls_trust.certificate_fingerprint(anchor), fingerprint):
            tls_trust.get_client_context(anchor)
            return anchor
    except ValueError:
        pass
    raise SetupError(
        f"The server at {url} is not the llb that created the token: its certificate is another one. "
        "Check the address and the network in between; if the llb has a new certificate, create a new token."
    )


async def request_join(url: str, request: JoinRequest, anchor: str = tls_trust.SYSTEM_TRUST) -> JoinReply:
    """Join the balancer at `url`. Raises `SetupError` with a message that says what to do."""
    response = await _request(
        url,
        "POST",
        "/api/nodes/join",
        msgspec.json.encode(request),
        verify=tls_trust.get_client_context(anchor),
    )
    if response.status == 201:
        try:
            return msgspec.json.decode(response.body, type=JoinReply)
        except DECODE_ERRORS:
            pass
    if response.status == _MISDIRECTED_REQUEST:
        raise SetupError(
            f"The llb at {url} does not accept that host name: join it by its IP address, or start it with "
            f"--allowed-host {urlsplit(url).hostname}."
        )
    message, location = response.error_message, response.headers.get("location")
    if message is not None:
        raise SetupError(
            f"{message}: join that one, at {location}." if location is not None else f"{message}."
        )
    if 300 <= response.status < 400 and location is not None:
        raise SetupError(f"The server at {url} redirects to {location}: give the address of the llb itself.")
    raise SetupError(
        f"The server at {url} is not an llb that hosts can join ({response.status}): check the address, or "
        "upgrade the llb there."
    )


async def is_same_balancer(url: str, membership: Membership, anchor: str = tls_trust.SYSTEM_TRUST) -> bool:
    """Whether the server at `url` is the balancer of `membership`, by a challenge that reveals no secret.

    Raises `SetupError` if it cannot be reached.
    """
    nonce = secrets.token_hex(16)
    query = urlencode({"node": membership.node_id, "nonce": nonce})
    response = await _request(
        url, "GET", f"/api/nodes/proof?{query}", verify=tls_trust.get_client_context(anchor)
    )
    try:
        proof = msgspec.json.decode(response.body, type=_ProofResponse).proof
    except DECODE_ERRORS:
        return False
    return tokens.tokens_equal(
        proof, tokens.balancer_challenge_response(membership.hop_credential, membership.node_id, nonce)
    )


async def notify_leave(membership: Membership) -> str | None:
    """Notify the balancer that this node leaves. Returns the reason if that failed, else None."""
    headers = {"Authorization": f"Bearer {membership.credential}"}
    try:
        response = await asyncio.to_thread(
            _send_request,
            "POST",
            f"{membership.balancer_url}/api/nodes/leave",
            headers=headers,
            verify=tls_trust.get_client_context(membership.anchor),
        )
    except _NoResponse as failure:
        return str(failure)
    # 401: the balancer has already removed the node.
    return None if response.status in (204, 401) else f"it answers {response.status}"


async def _request(
    url: str, method: str, path: str, body: bytes = b"", *, verify: ssl.SSLContext | None = None
) -> _HttpResponse:
    """The response of the llb at `url`. Raises `SetupError` if there is none."""
    try:
        return await asyncio.to_thread(_send_request, method, url + path, body, verify=verify)
    except _NoResponse as failure:
        raise SetupError(
            f"The llb at {url} cannot be reached ({failure}): check the address, and that it listens "
            "for other hosts (--host 0.0.0.0)."
        ) from None


def _send_request(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    verify: ssl.SSLContext | None = None,
) -> _HttpResponse:
    """Send one request; blocking. Raises `_NoResponse`.

    The deadline covers the whole response, however slowly the server sends it.
    """
    # Imported here: a host that has joined starts without it.
    import httpx2

    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    all_headers = {**headers, "Content-Type": "application/json"} if body else headers
    try:
        with (
            httpx2.Client(
                timeout=REQUEST_TIMEOUT_S,
                trust_env=False,
                verify=verify or tls_trust.get_client_context(tls_trust.SYSTEM_TRUST),
            ) as client,
            client.stream(method, url, content=body, headers=all_headers) as response,
        ):
            received = b""
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MAX_RESPONSE_BYTES or time.monotonic() > deadline:
                    break
            return _HttpResponse(response.status_code, response.headers, received)
    except httpx2.TimeoutException:
        raise _NoResponse("it does not answer") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _NoResponse(root_cause_message(error)) from None
