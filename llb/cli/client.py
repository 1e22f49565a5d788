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
from llb.cli.errors import Distrusted, Failure, Refused, Unreachable
from llb.security import tls_trust
from llb.wire import ErrorBody
from llb.wire.decoding import DECODE_ERRORS

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Target:
    """A server and the credential for it. `local`: proven to be this home's own by the lock it holds."""

    url: str
    credential: str | None
    local: bool
    anchor: str = ""  # by which it is believed over TLS


def find(home: Path, url: str | None, key: str | None) -> Target:
    """The server at `url`, else that of `home`. Another host never gets the local token.

    Raises `Unreachable` and `Failure`.
    """
    if url:
        return Target(_checked(url), key or os.environ.get("LLB_API_KEY") or None, local=False)
    refuse_lent(home)
    try:
        info = runfile.find_running_server(home)
    except PermissionError:
        raise Failure(
            f"{home} belongs to another user: run this as that user, or give --url and --key."
        ) from None
    if info is None:
        raise Unreachable(
            f"llb is not running on {home}: start it with 'llb', or name another host with --url."
        )
    return own(info, key)


def own(info: RunInfo, key: str | None = None) -> Target:
    """The server of this home, which runs."""
    return Target(info.url, key or info.token, local=True, anchor=info.anchor)


def refuse_lent(home: Path) -> None:
    """Raises `Failure` that names the llb to ask, on a host that lends itself to it."""
    member = node_identity.read_membership(home)
    if member is not None:
        raise Failure(
            f"This host lends itself to {member.balancer_url}, which has the models, keys and people: run this there, or "
            f"give --url {member.balancer_url} and a key of it."
        )


def _checked(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username:
        raise Failure(f"--url: '{url}' is not a URL such as http://host:8080.")
    return text.rstrip("/")


class Client:
    """Requests to one server. `locate` finds it, and finds it again after a restart."""

    def __init__(self, locate: Callable[[], Target]) -> None:
        self._locate = locate
        self.target = locate()

    def relocate(self) -> Target:
        """Find the server anew: it may have restarted on another port. Raises `Unreachable`."""
        self.target = self._locate()
        return self.target

    def get(self, path: str, kind: type[T]) -> T:
        """The answer as a `kind`. Raises `Refused` and `Unreachable`."""
        return self._decoded(self.ask("GET", path), kind)

    def post(self, path: str, body: Any, kind: type[T], timeout_s: float = ANSWER_TIMEOUT_S) -> T:
        return self._decoded(self.ask("POST", path, body, timeout_s), kind)

    def delete(self, path: str) -> None:
        self.ask("DELETE", path)

    def ask(self, method: str, path: str, body: Any = None, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        with self._answer(method, path, body, timeout_s) as answer, self._spoken():
            return answer.read()

    @contextmanager
    def stream(self, path: str, body: Any, timeout_s: float) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a Server-Sent Events answer; leaving the block closes the connection, which stops the answer."""
        with self._answer("POST", path, body, timeout_s) as answer:
            yield self._events(answer)

    def _events(self, answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        while True:
            with self._spoken():
                line = answer.readline()
            if not line:
                raise Unreachable(f"{self.target.url} ended its answer too early.")
            field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
            if field != "data":
                continue  # a comment that keeps the connection alive, or a field that nobody here needs
            if value.strip() == "[DONE]":
                return
            try:
                event = json.loads(value)
            except ValueError:
                raise Failure(f"{self.target.url} sent something that is no event of a chat.") from None
            if isinstance(event, dict):
                yield event

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(self.target.url)
        headers = {"User-Agent": f"llb/{__version__}", "Accept": "application/json, text/event-stream"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        if self.target.credential:
            headers["Authorization"] = f"Bearer {_as_header(self.target.credential)}"
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, self.target.anchor)
        try:
            with self._spoken():
                connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request(method, parts.path.rstrip("/") + path, body=data, headers=headers)
                answer = connection.getresponse()
                refusal = answer.read() if answer.status >= 400 else b""
            if answer.status >= 400:
                raise self._refusal(answer.status, refusal)
            if answer.status >= 300:
                raise Failure(f"{self.target.url} leads elsewhere: give the address where llb itself is.")
            yield answer
        finally:
            connection.close()

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """What goes wrong on the way, in words."""
        url = self.target.url
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise Distrusted(f"The certificate of {url} is not valid: {error.verify_message}.") from None
        except ssl.SSLError as error:
            raise Unreachable(f"{url} does not speak TLS as expected ({error.reason}): is it http?") from None
        except TimeoutError:
            raise Unreachable(f"{url} does not answer in time.") from None
        except socket.gaierror:
            raise Unreachable(f"{url} cannot be found: there is no host of that name.") from None
        except ConnectionRefusedError:
            raise Unreachable(f"Nothing answers at {url}: is llb running there?") from None
        except http.client.IncompleteRead:
            raise Unreachable(f"{url} ended its answer too early.") from None
        except http.client.HTTPException:
            raise Unreachable(f"{url} does not answer as llb does.") from None
        except OSError as error:
            if isinstance(error, BrokenPipeError | ConnectionError):
                raise Unreachable(f"{url} closed the connection.") from None
            raise Unreachable(f"{url} cannot be reached: {error.strerror or error}.") from None

    def _refusal(self, status: int, body: bytes) -> Refused:
        try:
            error = msgspec.json.decode(body, type=ErrorBody).error
        except DECODE_ERRORS:
            error = {}
        code = error.get("code")
        message = error.get("message")
        if not isinstance(message, str):
            message = f"{self.target.url} answers {status}, not as llb does: check the address"
        if status == 401 and not self.target.local:
            message = "The key was refused" if self.target.credential else "A key is needed"
            message += f" at {self.target.url}: give one with --key or LLB_API_KEY"
        return Refused(message, status=status, code=code if isinstance(code, str) else None)

    def _decoded(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except DECODE_ERRORS:
            raise Failure(
                f"{self.target.url} answers in a way that llb {__version__} does not understand: "
                "is it llb, and of the same version?"
            ) from None


def _connection(scheme: str, host: str, port: int | None, anchor: str) -> http.client.HTTPConnection:
    if scheme == "https":
        context = tls_trust.get_client_context(anchor)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


def _as_header(credential: str) -> str:
    if not credential.isascii() or not credential.isprintable() or " " in credential:
        raise Failure("--key: that is not an API key.")
    return credential
