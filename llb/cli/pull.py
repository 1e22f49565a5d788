"""`llb pull ID`: register a model and follow its pull. The server does the work; this only watches."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from llb.cli import output
from llb.cli.client import Client
from llb.cli.errors import INTERRUPTED, Failure, Refused, Unreachable
from llb.cli.models import client_of, known, path_of, unknown_model
from llb.security import tls_trust
from llb.wire import (
    Event,
    HelloEvent,
    ModelStatus,
    ModelStatusChanged,
    ModelWithStatus,
    RegisterReply,
    RegisterRequest,
    Resync,
)
from llb.wire.decoding import DECODE_ERRORS

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

RETURN_TIMEOUT_S = 120.0  # how long a server may be away while it is restarted
RETRY_S = 0.5
CONNECT_TIMEOUT_S = 10.0
STEP = 0.1  # of the progress, between two lines where no person watches a bar


class Watcher(Protocol):
    """Who shows the progress: a bar at a terminal, lines elsewhere."""

    def show(self, now: ModelStatusChanged) -> None: ...
    def message(self, text: str) -> None: ...


def pull(options: argparse.Namespace) -> int:
    """`llb pull ID`"""
    client = client_of(options)
    model_id = _register(client, options.model_id)
    try:
        with _watcher(model_id) as watcher:
            last = follow(client, model_id, watcher)
    except KeyboardInterrupt:
        output.note(f"\nThe pull of {model_id} goes on without this command; 'llb rm {model_id}' cancels it.")
        return INTERRUPTED
    if last.status is ModelStatus.ERROR:
        raise Failure(f"The pull of {model_id} failed: {last.error or 'the log of the server says why'}")
    if last.status is ModelStatus.AVAILABLE:
        raise Failure(f"The pull of {model_id} was cancelled.")
    output.say(f"{model_id} is ready ({output.size(last.total_bytes)}): llb chat {model_id}")
    return 0


def follow(client: Client, model_id: str, watcher: Watcher) -> ModelStatusChanged:
    """Watch until the model is Ready, in Error or no longer registered, whatever restarts meanwhile; returns that."""
    away_since: float | None = None
    while True:
        try:
            with _connect(client) as socket:
                away_since = None
                for now in _states(client, socket, model_id):
                    watcher.show(now)
                    if now.status in (ModelStatus.READY, ModelStatus.ERROR, ModelStatus.AVAILABLE):
                        return now
        except (Unreachable, _Ended):
            pass
        if away_since is None:
            away_since = time.monotonic()
            watcher.message("llb has gone away; waiting for it to return")
        if time.monotonic() - away_since > RETURN_TIMEOUT_S:
            raise Unreachable("llb has gone away; the pull goes on when it is started again.")
        time.sleep(RETRY_S)
        with contextlib.suppress(Unreachable):
            client.relocate()


class _Ended(Exception):
    """The connection ended or could not be made."""


def _register(client: Client, model_id: str) -> str:
    """Wish for the model unless it is wished already; returns its id as the catalogue writes it."""
    try:
        return client.post("/api/models/register", RegisterRequest(model_id), RegisterReply).model_id
    except Refused as refused:
        if refused.code == "model_already_registered":
            return known(client, model_id).model.id
        if refused.code == "model_not_supported":
            raise Failure(unknown_model(client, model_id)) from None
        raise


def _states(client: Client, socket: ClientConnection, model_id: str) -> Iterator[ModelStatusChanged]:
    """The model's state now and at every change. Raises `_Ended`."""
    from websockets.exceptions import ConnectionClosed

    decoder = msgspec.json.Decoder(Event | HelloEvent | Resync)
    while True:
        try:
            event = decoder.decode(socket.recv())
        except ConnectionClosed:
            raise _Ended from None
        except msgspec.ValidationError:
            continue  # an event that a newer server has
        except DECODE_ERRORS:
            raise Failure(f"{client.target.url} sent something that is no event.") from None
        if isinstance(event, HelloEvent | Resync):
            # What is not registered any more is in no snapshot: asked for, it is known to be gone.
            yield _state(client.get(path_of(model_id), ModelWithStatus))
        elif isinstance(event, ModelStatusChanged) and event.model_id == model_id:
            yield event


def _state(item: ModelWithStatus) -> ModelStatusChanged:
    return ModelStatusChanged(
        model_id=item.model.id,
        status=item.status,
        progress=item.download_progress,
        downloaded_bytes=item.downloaded_bytes,
        total_bytes=item.total_bytes,
        bytes_per_second=item.bytes_per_second,
        error=item.error,
    )


@contextlib.contextmanager
def _connect(client: Client) -> Iterator[ClientConnection]:
    """`/ws/models`. Raises `_Ended` where that does not come about."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    target = client.target
    headers = {"Authorization": f"Bearer {target.credential}"} if target.credential else {}
    try:
        socket = connect(
            f"ws{target.url.removeprefix('http')}/ws/models",
            additional_headers=headers,
            open_timeout=CONNECT_TIMEOUT_S,
            proxy=None,
            ssl=tls_trust.get_client_context(target.anchor) if target.url.startswith("https:") else None,
        )
    except InvalidStatus as refused:
        if refused.response.status_code in (401, 403):
            raise Failure(
                f"{target.url} does not let this key watch: it needs the scope models:read."
            ) from None
        raise _Ended from None
    except (OSError, InvalidHandshake):
        raise _Ended from None
    with socket:
        yield socket


# --- for the eye -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _watcher(model_id: str) -> Iterator[Watcher]:
    out = output.console()
    if not out.is_terminal:
        yield Lines(model_id)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[speed]}", style="cyan"),
        TextColumn("{task.fields[note]}", style="yellow"),
    )
    # `transient`: the bar makes room for the sentence that says how it ended.
    with Progress(*columns, console=out, transient=True) as progress:
        yield Bar(progress, model_id)


class Bar:
    """A bar with bytes, speed, time left, and what it waits for."""

    def __init__(self, progress: object, model_id: str) -> None:
        from rich.progress import Progress

        assert isinstance(progress, Progress)  # noqa: S101  # for the type checker
        self._progress = progress
        self._task = progress.add_task(model_id, total=None, amount="", speed="", note="waiting to begin")

    def show(self, now: ModelStatusChanged) -> None:
        total, done = now.total_bytes, now.downloaded_bytes or 0
        self._progress.update(
            self._task,
            total=total or None,
            completed=done,
            amount=f"{output.size(done)} of {output.size(total)}" if total else "",
            speed=_speed(now),
            note=output.clean(now.error or _stage(now)),
        )

    def message(self, text: str) -> None:
        self._progress.update(self._task, speed="", note=text)


class Lines:
    """A line at every change of status and at every tenth of the way: for logs."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._said: tuple[str, str | None] | None = None
        self._next = 0.0

    def show(self, now: ModelStatusChanged) -> None:
        if now.status not in (ModelStatus.REGISTERED, ModelStatus.DOWNLOADING):
            return  # how it ended is said by the command
        state = (now.status, now.error)
        progress = now.progress or 0.0
        if state == self._said and progress < self._next:
            return
        if state != self._said:
            self._next = 0.0
        self._said = state
        while self._next <= progress:
            self._next += STEP
        if now.error:
            self.message(now.error)
        elif now.status is ModelStatus.REGISTERED:
            self.message("registered")
        else:
            amount = f"{output.size(now.downloaded_bytes)} of {output.size(now.total_bytes)}"
            details = ", ".join(part for part in (amount, _speed(now)) if part)
            self.message(f"{output.per_cent(progress)} ({details})")

    def message(self, text: str) -> None:
        output.say(f"{self._model_id}: {text}")


def _speed(now: ModelStatusChanged) -> str:
    if not now.bytes_per_second:
        return ""
    speed = f"{output.size(now.bytes_per_second)}/s"
    left = (now.total_bytes or 0) - (now.downloaded_bytes or 0)
    return f"{speed}, {output.span(left / now.bytes_per_second)} left" if left > 0 else speed


def _stage(now: ModelStatusChanged) -> str:
    if now.status is ModelStatus.REGISTERED:
        return "waiting to begin"
    return "verifying" if now.total_bytes and now.downloaded_bytes == now.total_bytes else ""
