"""Commands for endpoints: list, add, check, map, remove."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any
from urllib.parse import quote

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import CommandError
from llb.cli.options import client_of
from llb.cli.tables import EMPTY_CELL, print_table
from llb.wire import EndpointList, EndpointStatus, EndpointView

# Detection asks up to a dozen routes of a program that may be slow.
ADD_TIMEOUT_S = 120.0


def list_endpoints(options: argparse.Namespace) -> int:
    """`llb endpoints`"""
    listed = client_of(options).get("/api/endpoints", EndpointList)
    if options.json:
        output.print_json(listed)
        return 0
    if not listed.endpoints:
        output.print_note("There are no endpoints yet: add one with 'llb endpoints add URL'.")
        return 0
    print_table(
        ("NAME", "KIND", "STATUS", "URL", "MODELS", "ACTIVE", "LATENCY", "KEY"),
        [_endpoint_row(endpoint) for endpoint in listed.endpoints],
        right_aligned=(4, 5, 6),
        flexible=3,
        droppable=(7, 6, 5),
    )
    return 0


def add_endpoint(options: argparse.Namespace) -> int:
    """`llb endpoints add URL`"""
    body: dict[str, Any] = {"base_url": options.base_url}
    for name in ("name", "kind", "weight", "priority", "max_concurrency", "cloud"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    if options.models is not None:
        body["models"] = [name.strip() for name in options.models.split(",") if name.strip()]
    if options.key_stdin:
        body["key"] = _read_key()
    added = client_of(options).post("/api/endpoints", body, EndpointView, timeout_s=ADD_TIMEOUT_S)
    if options.json:
        output.print_json(added)
        return 0
    output.print_line(f"{added.name} is {added.kind.value} and has {_count_models(len(added.models))}.")
    if added.models:
        output.print_note(f"Ask for one of them as {added.models[0].served_as}.")
    if added.cloud:
        output.print_note("It is a cloud: keys need the scope 'cloud'.")
    return 0


def check_endpoint(options: argparse.Namespace) -> int:
    """`llb endpoints check NAME`; 1 if it cannot be used."""
    client = client_of(options)
    endpoint = find_endpoint(client, options.endpoint)
    checked = client.post(f"{_path(endpoint)}/check", {}, EndpointView, timeout_s=ADD_TIMEOUT_S)
    if options.json:
        output.print_json(checked)
    else:
        latency = "" if checked.latency_ms is None else f", {checked.latency_ms:.0f} ms"
        output.print_line(
            f"{checked.name} is {checked.status.value}{latency}, with {_count_models(len(checked.models))}."
        )
        if checked.last_error is not None:
            output.print_note(checked.last_error)
    is_usable = checked.status in (
        EndpointStatus.HEALTHY,
        EndpointStatus.BUSY,
        EndpointStatus.RATE_LIMITED,
        EndpointStatus.DISABLED,
    )
    return 0 if is_usable else 1


def map_model(options: argparse.Namespace) -> int:
    """`llb endpoints map NAME MODEL [ID]`"""
    client = client_of(options)
    endpoint = find_endpoint(client, options.endpoint)
    if options.model is None:
        _print_suggestions(endpoint)
        return 0
    if options.target is None and not options.off:
        raise CommandError("Name the model of the catalogue, or give --off to end a mapping.")
    target = None if options.off else options.target
    if options.model not in {model.id for model in endpoint.models}:
        raise CommandError(
            f"{endpoint.name} has no model '{options.model}': 'llb endpoints --json' lists them."
        )
    client.request("PATCH", _path(endpoint), {"mapped": {options.model: target}})
    if target is None:
        output.print_line(f"{options.model} of {endpoint.name} is a model of its own again.")
    else:
        output.print_line(f"Requests for {target} may now go to {endpoint.name}.")
    return 0


def remove_endpoint(options: argparse.Namespace) -> int:
    """`llb endpoints remove NAME`"""
    client = client_of(options)
    endpoint = find_endpoint(client, options.endpoint)
    if not output.confirm(f"Remove {endpoint.name}, with its key?", assume_yes=options.yes):
        raise CommandError("Nothing was removed.")
    client.delete(_path(endpoint))
    output.print_line(f"{endpoint.name} was removed.")
    return 0


def find_endpoint(client: ApiClient, name: str) -> EndpointView:
    """Endpoint with this name or id. Raises `CommandError` with similar names if there is none."""
    found = client.get("/api/endpoints", EndpointList).endpoints
    for endpoint in found:
        if name == endpoint.id or name.casefold() == endpoint.name:
            return endpoint
    similar = difflib.get_close_matches(name, [endpoint.name for endpoint in found], n=3)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "'llb endpoints' lists them."
    raise CommandError(f"There is no endpoint '{name}': {hint}")


def _path(endpoint: EndpointView) -> str:
    return f"/api/endpoints/{quote(endpoint.id, safe='')}"


def _endpoint_row(endpoint: EndpointView) -> tuple[str, ...]:
    key = endpoint.key
    shown = f"…{key.last_four}" if key.last_four else "set"
    source = "" if key.source is None or key.source.value == "stored" else f" ({key.source.value})"
    return (
        endpoint.name,
        f"{endpoint.kind.value}{' (cloud)' if endpoint.cloud else ''}",
        endpoint.status.value,
        endpoint.base_url or EMPTY_CELL,
        str(len(endpoint.models)),
        str(endpoint.active_requests),
        EMPTY_CELL if endpoint.latency_ms is None else f"{endpoint.latency_ms:.0f} ms",
        f"{shown}{source}" if key.set else EMPTY_CELL,
    )


def _print_suggestions(endpoint: EndpointView) -> None:
    rows = [
        (model.id, model.mapped_to or EMPTY_CELL, model.suggestion or EMPTY_CELL) for model in endpoint.models
    ]
    print_table(("MODEL", "MAPPED TO", "SUGGESTION"), rows, flexible=0)


def _count_models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _read_key() -> str:
    """Key from standard input: an argument would show in the list of processes. Raises `CommandError`."""
    key = sys.stdin.readline().strip()
    if not key:
        raise CommandError("There is no key on standard input.")
    return key
