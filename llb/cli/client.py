"""HTTP client of the commands, for the server of this data directory or the one of --url."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from llb import __version__
from llb.base import node_identity, runfile
from llb.base.runfile import RunInfo
from llb.cli.errors import ApiError, CertificateNotTrusted, CommandError, ServerUnreachable
from llb.security import tls_trust
from llb.wire import ErrorBody
from llb.wire.decoding import DECODE_ERRORS

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
RESPONSE_TIMEOUT_S = 30.0


class ServerAddress(Struct, frozen=True):
    """Server and the credential for it.

    `is_local`: the server holds the lock of this data directory. `trust_anchor` verifies its certificate.
    """

    url: str
    credential: str | None
    is_local: bool
    trust_anchor: str = ""


def find_server(home: Path, url: str | None, key: str | None) -> ServerAddress:
    """Server at `url`, else the balancer that `home` has joined, else the server of `home`.

    Another host never gets the local token. The balancer of a joined host gets a key of the person who runs
    the command: the credential of the node is that of a machine, and allows no commands.
    Raises `ServerUnreachable` when no server runs, `CommandError` for a bad URL or a missing key.
    """
    given_key = key or os.environ.get("LLB_API_KEY") or None
    if url:
        return ServerAddress(_validate_url(url), given_key, is_local=False)
    member = node_identity.read_membership(home)
    if member is not None:
        if given_key is None:
            raise CommandError(
                f"This host has joined {member.balancer_url}, which needs a key for this command: create one "
                "there ('llb keys create NAME --scope admin'), then here 'export LLB_API_KEY=sk-…'."
            )
        return ServerAddress(member.balancer_url, given_key, is_local=False, trust_anchor=member.anchor)
    try:
        info = runfile.find_running_server(home)
    except PermissionError:
        raise CommandError(
            f"{home} belongs to another user: run this command as that user, or give --url and --key."
        ) from None
    if info is None:
        raise ServerUnreachable(
            f"llb is not running on {home}: start it with 'llb', or name another host with --url."
        )
    return local_server(info, key)


def local_server(info: RunInfo, key: str | None = None) -> ServerAddress:
    """Address of the running server of this data directory."""
    return ServerAddress(info.url, key or info.token, is_local=True, trust_anchor=info.anchor)


def require_not_joined(home: Path) -> None:
    """Raise `CommandError` on a joined host, whose balancer has the accounts."""
    member = node_identity.read_membership(home)
    if member is not None:
        raise CommandError(
            f"This host has joined {member.balancer_url}, which has the keys and users: "
            "run this command there."
        )


def _validate_url(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment or parts.username:
        raise CommandError(f"--url: '{url}' is not a URL such as http://host:8080.")
    return text.rstrip("/")


class ApiClient:
    """Requests to one server. `locate` finds the server, also after a restart."""

    def __init__(self, locate: Callable[[], ServerAddress]) -> None:
        self._locate = locate
        self.server = locate()

    def relocate(self) -> ServerAddress:
        """Find the server again; it may have restarted on another port. Raises `ServerUnreachable`."""
        self.server = self._locate()
        return self.server

    def get(self, path: str, result_type: type[T], timeout_s: float = RESPONSE_TIMEOUT_S) -> T:
        """Decoded response. Raises `ApiError` and `ServerUnreachable`."""
        return self._decode(self.request("GET", path, timeout_s=timeout_s), result_type)

    def post(self, path: str, body: Any, result_type: type[T], timeout_s: float = RESPONSE_TIMEOUT_S) -> T:
        return self._decode(self.request("POST", path, body, timeout_s), result_type)

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def request(
        self, method: str, path: str, body: Any = None, timeout_s: float = RESPONSE_TIMEOUT_S
    ) -> bytes:
        with self._open_response(method, path, body, timeout_s) as response, self._translate_errors():
            return response.read()

    @contextmanager
    def stream_events(self, path: str, body: Any, timeout_s: float) -> Iterator[Iterator[dict[str, Any]]]:
        """Stream the events of a response; leaving the block closes the connection."""
        with self._open_response("POST", path, body, timeout_s) as response:
            yield self._read_events(response)

    def _read_events(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        while True:
            with self._translate_errors():
                line = response.readline()
            if not line:
                raise ServerUnreachable(f"{self.server.url} ended its response too early.")
            field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
            if field != "data":
                # A keep-alive comment, or a field that is not used here.
                continue
            if value.strip() == "[DONE]":
                return
            try:
                event = json.loads(value)
            except ValueError:
                raise CommandError(f"{self.server.url} sent an invalid event.") from None
            if isinstance(event, dict):
                yield event

    @contextmanager
    def _open_response(
        self, method: str, path: str, body: Any, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.server.url)
        headers = {"User-Agent": f"llb/{__version__}", "Accept": "application/json, text/event-stream"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        if self.server.credential:
            headers["Authorization"] = f"Bearer {_validate_credential(self.server.credential)}"
        connection = _create_connection(
            parts.scheme, parts.hostname or "", parts.port, self.server.trust_anchor
        )
        try:
            with self._translate_errors():
                connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request(method, parts.path.rstrip("/") + path, body=data, headers=headers)
                response = connection.getresponse()
                error_body = response.read() if response.status >= 400 else b""
            if response.status >= 400:
                raise self._api_error(response.status, error_body)
            if response.status >= 300:
                raise CommandError(_redirect_message(self.server.url, response.getheader("Location")))
            yield response
        finally:
            connection.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of connection and protocol into `ServerUnreachable` with a message."""
        url = self.server.url
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise CertificateNotTrusted(
                f"The certificate of {url} is not valid: {error.verify_message}."
            ) from None
        except ssl.SSLError as error:
            raise ServerUnreachable(
                f"{url} does not speak TLS as expected ({error.reason}): is it http?"
            ) from None
        except TimeoutError:
            raise ServerUnreachable(f"{url} did not respond in time.") from None
        except socket.gaierror:
            raise ServerUnreachable(f"{url} cannot be found: there is no host with that name.") from None
        except ConnectionRefusedError:
            raise ServerUnreachable(f"Nothing answers at {url}: is llb running there?") from None
        except http.client.IncompleteRead:
            raise ServerUnreachable(f"{url} ended its response too early.") from None
        except http.client.HTTPException:
            raise ServerUnreachable(f"{url} does not respond like llb.") from None
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionError):
                raise ServerUnreachable(f"{url} closed the connection.") from None
            raise ServerUnreachable(f"{url} cannot be reached: {error.strerror or error}.") from None

    def _api_error(self, status: int, body: bytes) -> ApiError:
        try:
            error = msgspec.json.decode(body, type=ErrorBody).error
        except DECODE_ERRORS:
            error = {}
        code = error.get("code")
        message = error.get("message")
        if not isinstance(message, str):
            message = f"{self.server.url} responded with {status}, and not like llb: check the address"
        if status == 401 and not self.server.is_local:
            message = "The key was rejected" if self.server.credential else "A key is required"
            message += f" at {self.server.url}: give one with --key or LLB_API_KEY"
        return ApiError(message, status=status, code=code if isinstance(code, str) else None)

    def _decode(self, body: bytes, result_type: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=result_type)
        except DECODE_ERRORS:
            raise CommandError(
                f"{self.server.url} sent a response that llb {__version__} does not understand: "
                "is it llb of the same version?"
            ) from None


def _create_connection(
    scheme: str, host: str, port: int | None, trust_anchor: str
) -> http.client.HTTPConnection:
    if scheme == "https":
        context = tls_trust.get_client_context(trust_anchor)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


def _redirect_message(url: str, location: str | None) -> str:
    """Not followed: a key must not go where a response points. A joined host redirects to its balancer."""
    parts = urlsplit(location or "")
    if parts.scheme in ("http", "https") and parts.netloc:
        address = f"{parts.scheme}://{parts.netloc}"
        return f"{url} redirects to {address}: if it has joined that llb, use --url {address}."
    return f"{url} redirects elsewhere: give the address of llb itself."


def _validate_credential(credential: str) -> str:
    if not credential.isascii() or not credential.isprintable() or " " in credential:
        raise CommandError("--key: that is not an API key.")
    return credential
