"""Commands for models: `llb models`, `llb rm`, `llb import`."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from urllib.parse import quote, urlencode

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import ApiError, CommandError
from llb.cli.options import client_of
from llb.wire import (
    ModelList,
    ModelStatus,
    ModelWithStatus,
    RegisterReply,
    Verdict,
)

# The server hashes the whole file, and may copy it.
IMPORT_TIMEOUT_S = 3600.0
_FIT_LABELS = {Verdict.TIGHT: "tight", Verdict.FITS: "fits", Verdict.UNKNOWN: "unknown"}


def model_path_of(model_id: str) -> str:
    return f"/api/models/{quote(model_id, safe='')}"


def list_models(options: argparse.Namespace) -> int:
    """`llb models`"""
    query = urlencode({"q": " ".join(options.words)}) if options.words else ""
    found = client_of(options).get(f"/api/models?{query}", ModelList).models
    if options.pulled:
        found = tuple(item for item in found if item.status is not ModelStatus.AVAILABLE)
    if options.json:
        output.print_json(ModelList(found))
        return 0
    if not found:
        output.print_note(
            "No model was pulled yet: pull one with 'llb pull ID'." if options.pulled else "No model matches."
        )
        return 0
    output.print_table(
        ("ID", "NAME", "SIZE", "MEMORY", "STATUS", "FIT"),
        [_model_row(item) for item in found],
        right_aligned=(2, 3),
    )
    for item in found:
        if item.error is not None:
            output.print_note(f"{item.model.id}: {item.error}")
    return 0


def remove_model(options: argparse.Namespace) -> int:
    """`llb rm ID`"""
    client = client_of(options)
    item = require_model(client, options.model_id)
    model_id = item.model.id
    if item.status is ModelStatus.AVAILABLE:
        raise CommandError(f"Model '{model_id}' has not been pulled: there is nothing to remove.")
    pulling = item.status in (ModelStatus.DOWNLOADING, ModelStatus.REGISTERED)
    question = f"Cancel the pull of {model_id}?" if pulling else f"Remove {model_id} from every node?"
    if not output.confirm(question, assume_yes=options.yes):
        raise CommandError("Nothing was removed.")
    client.delete(model_path_of(model_id))
    if pulling:
        output.print_line(
            f"The pull of {model_id} was cancelled; the downloaded part is kept for a later pull."
        )
    else:
        output.print_line(f"{model_id} is removed.")
    return 0


def import_model(options: argparse.Namespace) -> int:
    """`llb import FILE`"""
    path = Path(options.file).expanduser().absolute()
    if not path.is_file():
        raise CommandError(f"There is no file {path}.")
    client = client_of(options)
    body = {"path": str(path), "model_id": options.model}
    output.print_note(f"Reading {path.name} ({output.format_size(path.stat().st_size)}) …")
    reply = client.post("/api/models/import", body, RegisterReply, IMPORT_TIMEOUT_S)
    output.print_line(
        f"{path.name} was imported as {reply.model_id}; 'llb pull {reply.model_id}' shows when it is ready."
    )
    return 0


def require_model(client: ApiClient, model_id: str) -> ModelWithStatus:
    """Model with this id. Raises `CommandError` with similar ids if there is none."""
    try:
        return client.get(model_path_of(model_id), ModelWithStatus)
    except ApiError as error:
        if error.status != 404:
            raise
        raise CommandError(unknown_model_message(client, model_id)) from None


def unknown_model_message(client: ApiClient, model_id: str) -> str:
    """Error message for an unknown model id, with similar ids."""
    ids = [item.model.id for item in client.get("/api/models", ModelList).models]
    similar = difflib.get_close_matches(model_id.lower(), ids, n=3)
    similar = similar or [name for name in ids if model_id.lower() in name][:3]
    hint = f"did you mean {' or '.join(similar)}?" if similar else "'llb models' lists the available ones."
    return f"There is no model '{model_id}': {hint}"


def format_status(item: ModelWithStatus) -> str:
    """Status of a model, with the progress of its download."""
    if item.status is ModelStatus.DOWNLOADING:
        return f"{item.status} {output.format_percent(item.download_progress)}"
    loaded = any(replica.engine is not None for replica in item.replicas)
    return f"{item.status} (loaded)" if loaded else str(item.status)


def _model_row(item: ModelWithStatus) -> tuple[str, ...]:
    model, fit = item.model, item.fit
    return (
        model.id,
        model.name if item.supported else f"{model.name} (no longer listed)",
        output.format_size(item.total_bytes or model.size_bytes),
        output.format_size(model.required_memory_bytes),
        format_status(item),
        "too large" if fit.verdict is Verdict.TOO_LARGE else _FIT_LABELS[fit.verdict],
    )
