"""How a command speaks with a server: the one of its own home, or the one named with --url."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

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


@dataclass(frozen=True)
class ServerAddress:
    """A server and the credential for it. `local`: proven to be this home's own by the lock it holds."""

    url: str
    credential: str | None
    is_local: bool
    trust_anchor: str = ""  # by which it is believed over TLS


def find_server(home: Path, url: str | None, key: str | None) -> ServerAddress:
    """The server at `url`, else that of `home`. Another host never gets the local token.

    Raises `Unreachable` and `Failure`.
    """
    if url:
        return ServerAddress(_validate_url(url), key or os.environ.get("LLB_API_KEY") or None, is_local=False)
    require_not_joined(home)
    try:
        info = runfile.find_running_server(home)
    except PermissionError:
        raise CommandError(
            f"{home} belongs to another user: run this as that user, or give --url and --key."
        ) from None
    if info is None:
        raise ServerUnreachable(
            f"llb is not running on {home}: start it with 'llb', or name another host with --url."
        )
    return local_server(info, key)


def local_server(info: RunInfo, key: str | None = None) -> ServerAddress:
    """The server of this home, which runs."""
    return ServerAddress(info.url, key or info.token, is_local=True, trust_anchor=info.anchor)


def require_not_joined(home: Path) -> None:
    """Raises `Failure` that names the llb to ask, on a host that lends itself to it."""
    member = node_identity.read_membership(home)
    if member is not None:
        raise CommandError(
            f"This host lends itself to {member.balancer_url}, which has the models, keys and people: run this there, or "
            f"give --url {member.balancer_url} and a key of it."
        )


def _validate_url(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username:
        raise CommandError(f"--url: '{url}' is not a URL such as http://host:8080.")
    return text.rstrip("/")


class ApiClient:
    """Requests to one server. `locate` finds it, and finds it again after a restart."""

    def __init__(self, locate: Callable[[], ServerAddress]) -> None:
        self._locate = locate
        self.server = locate()

    def relocate(self) -> ServerAddress:
        """Find the server anew: it may have restarted on another port. Raises `Unreachable`."""
        self.server = self._locate()
        return self.server

    def get(self, path: str, result_type: type[T]) -> T:
        """The answer as a `kind`. Raises `Refused` and `Unreachable`."""
        return self._decode(self.request("GET", path), result_type)

    def post(self, path: str, body: Any, result_type: type[T], timeout_s: float = RESPONSE_TIMEOUT_S) -> T:
        return self._decode(self.request("POST", path, body, timeout_s), result_type)

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def request(
        self, method: str, path: str, body: Any = None, timeout_s: float = RESPONSE_TIMEOUT_S
    ) -> bytes:
        with self._open_response(method, path, body, timeout_s) as answer, self._translate_errors():
            return answer.read()

    @contextmanager
    def stream_events(self, path: str, body: Any, timeout_s: float) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a Server-Sent Events answer; leaving the block closes the connection, which stops the answer."""
        with self._open_response("POST", path, body, timeout_s) as answer:
            yield self._read_events(answer)

    def _read_events(self, answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        while True:
            with self._translate_errors():
                line = answer.readline()
            if not line:
                raise ServerUnreachable(f"{self.server.url} ended its answer too early.")
            field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
            if field != "data":
                continue  # a comment that keeps the connection alive, or a field that nobody here needs
            if value.strip() == "[DONE]":
                return
            try:
                event = json.loads(value)
            except ValueError:
                raise CommandError(f"{self.server.url} sent something that is no event of a chat.") from None
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
                answer = connection.getresponse()
                refusal = answer.read() if answer.status >= 400 else b""
            if answer.status >= 400:
                raise self._api_error(answer.status, refusal)
            if answer.status >= 300:
                raise CommandError(
                    f"{self.server.url} leads elsewhere: give the address where llb itself is."
                )
            yield answer
        finally:
            connection.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """What goes wrong on the way, in words."""
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
            raise ServerUnreachable(f"{url} does not answer in time.") from None
        except socket.gaierror:
            raise ServerUnreachable(f"{url} cannot be found: there is no host of that name.") from None
        except ConnectionRefusedError:
            raise ServerUnreachable(f"Nothing answers at {url}: is llb running there?") from None
        except http.client.IncompleteRead:
            raise ServerUnreachable(f"{url} ended its answer too early.") from None
        except http.client.HTTPException:
            raise ServerUnreachable(f"{url} does not answer as llb does.") from None
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
            message = f"{self.server.url} answers {status}, not as llb does: check the address"
        if status == 401 and not self.server.is_local:
            message = "The key was refused" if self.server.credential else "A key is needed"
            message += f" at {self.server.url}: give one with --key or LLB_API_KEY"
        return ApiError(message, status=status, code=code if isinstance(code, str) else None)

    def _decode(self, body: bytes, result_type: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=result_type)
        except DECODE_ERRORS:
            raise CommandError(
                f"{self.server.url} answers in a way that llb {__version__} does not understand: "
                "is it llb, and of the same version?"
            ) from None


def _create_connection(
    scheme: str, host: str, port: int | None, trust_anchor: str
) -> http.client.HTTPConnection:
    if scheme == "https":
        context = tls_trust.get_client_context(trust_anchor)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


def _validate_credential(credential: str) -> str:
    if not credential.isascii() or not credential.isprintable() or " " in credential:
        raise CommandError("--key: that is not an API key.")
    return credential
