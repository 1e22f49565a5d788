"""`llb pull ID`: register a model and show the progress of the pull, which runs on the server."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import EXIT_INTERRUPTED, ApiError, CommandError, ServerUnreachable
from llb.cli.models import model_path_of, require_model, unknown_model_message
from llb.cli.options import client_of
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

# How long a restart of the server may take.
RECONNECT_TIMEOUT_S = 120.0
RETRY_DELAY_S = 0.5
CONNECT_TIMEOUT_S = 10.0
# Fraction of the progress between two lines of piped output.
PROGRESS_STEP = 0.1
# The error of a pull that is under way says what it waits for.
RETRY_NOTE = "llb tries again"


class ProgressDisplay(Protocol):
    """Display of the progress: a bar at a terminal, else lines."""

    def show_status(self, status: ModelStatusChanged) -> None: ...
    def show_message(self, text: str) -> None: ...


def pull_model(options: argparse.Namespace) -> int:
    """`llb pull ID`"""
    client = client_of(options)
    model_id = _register_model(client, options.model_id)
    try:
        with _open_display(model_id) as display:
            last = follow_pull(client, model_id, display)
    except KeyboardInterrupt:
        output.print_note(
            f"\nThe pull of {model_id} continues without this command; 'llb rm {model_id}' cancels it."
        )
        return EXIT_INTERRUPTED
    if last.status is ModelStatus.ERROR:
        raise CommandError(f"The pull of {model_id} failed: {last.error or 'see the log of the server'}")
    if last.status is ModelStatus.AVAILABLE:
        raise CommandError(f"The pull of {model_id} was cancelled.")
    output.print_line(f"{model_id} is ready ({output.format_size(last.total_bytes)}): llb chat {model_id}")
    return 0


def follow_pull(client: ApiClient, model_id: str, display: ProgressDisplay) -> ModelStatusChanged:
    """Wait until the model is Ready, in Error or not registered any more; returns that status.

    Reconnects after a restart of the server. Raises `ServerUnreachable` if it does not come back in time.
    """
    disconnected_at: float | None = None
    while True:
        try:
            with _connect(client) as socket:
                disconnected_at = None
                for status in _iter_status_events(client, socket, model_id):
                    display.show_status(status)
                    if status.status in (ModelStatus.READY, ModelStatus.ERROR, ModelStatus.AVAILABLE):
                        return status
        except (ServerUnreachable, _ConnectionLost):
            pass
        if disconnected_at is None:
            disconnected_at = time.monotonic()
            display.show_message("connection to llb lost; reconnecting")
        if time.monotonic() - disconnected_at > RECONNECT_TIMEOUT_S:
            raise ServerUnreachable(
                "The connection to llb was lost; the pull continues when llb is started again."
            )
        time.sleep(RETRY_DELAY_S)
        with contextlib.suppress(ServerUnreachable):
            client.relocate()


class _ConnectionLost(Exception):
    """The WebSocket connection ended or could not be opened."""


def _register_model(client: ApiClient, model_id: str) -> str:
    """Register the model unless it is registered; returns its id in the spelling of the catalogue."""
    try:
        return client.post("/api/models/register", RegisterRequest(model_id), RegisterReply).model_id
    except ApiError as error:
        if error.code == "model_already_registered":
            return require_model(client, model_id).model.id
        if error.code == "insufficient_storage":
            raise CommandError(
                f"{error}. A node keeps 2 GB of its disk free, or offers what --disk-limit says. "
                "'llb models --pulled' shows what can be removed with 'llb rm'."
            ) from None
        if error.code == "model_not_supported":
            raise CommandError(unknown_model_message(client, model_id)) from None
        raise


def _iter_status_events(
    client: ApiClient, socket: ClientConnection, model_id: str
) -> Iterator[ModelStatusChanged]:
    """Status of the model now and at each change. Raises `_ConnectionLost`."""
    from websockets.exceptions import ConnectionClosed

    decoder = msgspec.json.Decoder(Event | HelloEvent | Resync)
    while True:
        try:
            event = decoder.decode(socket.recv())
        except ConnectionClosed:
            raise _ConnectionLost from None
        except msgspec.ValidationError:
            # A newer server may send events that are unknown here.
            continue
        except DECODE_ERRORS:
            raise CommandError(f"{client.server.url} sent an invalid event.") from None
        if isinstance(event, HelloEvent | Resync):
            # The snapshot omits a model that is not registered any more, so its status is requested.
            yield _status_event(client.get(model_path_of(model_id), ModelWithStatus))
        elif isinstance(event, ModelStatusChanged) and event.model_id == model_id:
            yield event


def _status_event(item: ModelWithStatus) -> ModelStatusChanged:
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
def _connect(client: ApiClient) -> Iterator[ClientConnection]:
    """Connect to `/ws/models`. Raises `_ConnectionLost`, and `CommandError` for a key without the scope."""
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    server = client.server
    headers = {"Authorization": f"Bearer {server.credential}"} if server.credential else {}
    try:
        socket = connect(
            f"ws{server.url.removeprefix('http')}/ws/models",
            additional_headers=headers,
            open_timeout=CONNECT_TIMEOUT_S,
            proxy=None,
            ssl=tls_trust.get_client_context(server.trust_anchor)
            if server.url.startswith("https:")
            else None,
        )
    except InvalidStatus as error:
        if error.response.status_code in (401, 403):
            raise CommandError(
                f"{server.url} does not let this key read the models: it needs the scope models:read."
            ) from None
        raise _ConnectionLost from None
    except (OSError, InvalidHandshake):
        raise _ConnectionLost from None
    with socket:
        yield socket


# --- progress ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_display(model_id: str) -> Iterator[ProgressDisplay]:
    out = output.create_console()
    if not out.is_terminal or out.is_dumb_terminal:
        yield ProgressLines(model_id)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[speed]}", style="cyan"),
        TextColumn("{task.fields[note]}", style="yellow"),
    )
    # `transient` removes the bar before the final message.
    with Progress(*columns, console=out, transient=True) as progress:
        yield ProgressBar(progress, model_id)


class ProgressBar:
    """Progress bar with bytes, speed, remaining time and the current stage or error."""

    def __init__(self, progress: object, model_id: str) -> None:
        from rich.progress import Progress

        assert isinstance(progress, Progress)  # noqa: S101  # for the type checker
        self._progress = progress
        self._task = progress.add_task(model_id, total=None, amount="", speed="", note="waiting to start")

    def show_status(self, status: ModelStatusChanged) -> None:
        total, done = status.total_bytes, status.downloaded_bytes or 0
        self._progress.update(
            self._task,
            total=total or None,
            completed=done,
            amount=f"{output.format_size(done)} of {output.format_size(total)}" if total else "",
            speed=_format_speed(status),
            note=output.strip_control_chars(
                f"{status.error} ({RETRY_NOTE})" if status.error else _format_stage(status)
            ),
        )

    def show_message(self, text: str) -> None:
        self._progress.update(self._task, speed="", note=text)


class ProgressLines:
    """A line at each change of status and each `PROGRESS_STEP`, for logs."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._last_state: tuple[str, str | None] | None = None
        self._next_progress = 0.0

    def show_status(self, status: ModelStatusChanged) -> None:
        if status.status not in (ModelStatus.REGISTERED, ModelStatus.DOWNLOADING):
            # `pull_model` prints the final status.
            return
        state = (status.status, status.error)
        progress = status.progress or 0.0
        if state == self._last_state and progress < self._next_progress:
            return
        if state != self._last_state:
            self._next_progress = 0.0
        self._last_state = state
        while self._next_progress <= progress:
            self._next_progress += PROGRESS_STEP
        if status.error:
            self.show_message(f"{status.error} ({RETRY_NOTE})")
        elif status.status is ModelStatus.REGISTERED:
            self.show_message("registered")
        else:
            amount = (
                f"{output.format_size(status.downloaded_bytes)} of {output.format_size(status.total_bytes)}"
            )
            details = ", ".join(part for part in (amount, _format_speed(status)) if part)
            self.show_message(f"{output.format_percent(progress)} ({details})")

    def show_message(self, text: str) -> None:
        output.print_line(f"{self._model_id}: {text}")


def _format_speed(status: ModelStatusChanged) -> str:
    if not status.bytes_per_second:
        return ""
    speed = f"{output.format_size(status.bytes_per_second)}/s"
    remaining = (status.total_bytes or 0) - (status.downloaded_bytes or 0)
    return (
        f"{speed}, {output.format_duration(remaining / status.bytes_per_second)} left"
        if remaining > 0
        else speed
    )


def _format_stage(status: ModelStatusChanged) -> str:
    if status.status is ModelStatus.REGISTERED:
        return "waiting to start"
    return "verifying" if status.total_bytes and status.downloaded_bytes == status.total_bytes else ""
