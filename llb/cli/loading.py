"""Commands for models in memory: `llb ps`, `llb show`, `llb load`, `llb unload`."""

from __future__ import annotations

import argparse
import time

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import CommandError
from llb.cli.models import describe_cards, format_status, model_path_of, require_model
from llb.cli.nodes import find_node
from llb.cli.options import client_of
from llb.cli.tables import print_table
from llb.wire import (
    DraftState,
    LoadOptions,
    LoadRequest,
    ModelStatus,
    ModelWithStatus,
    NodeList,
    NodeView,
    Speculation,
)

# A large model on a slow disk.
LOAD_TIMEOUT_S = 660.0
UNLOAD_TIMEOUT_S = 90.0

_DRAFT_STATES = {
    DraftState.USED: "used",
    DraftState.MISSING: "not used, the node does not have it",
    DraftState.VOCABULARY: "not used, its vocabulary is another one",
    DraftState.UNSUITABLE: "not used, the architecture does not allow it",
    DraftState.MEMORY: "not used, it does not fit beside the model",
    DraftState.FAILED: "not used, an engine with it failed",
}

_SPECULATIONS = {Speculation.MTP: "multi-token prediction", Speculation.NGRAM: "n-grams"}


def list_loaded(options: argparse.Namespace) -> int:
    """`llb ps`"""
    nodes = client_of(options).get("/api/nodes", NodeList).nodes
    rows = [row for node in nodes for row in _rows_of_node(node)]
    if options.json:
        engines = [
            {"node": node.name, **{name: getattr(engine, name) for name in engine.__struct_fields__}}
            for node in nodes
            for engine in node.engines
        ]
        output.print_json({"engines": engines})
        return 0
    if not rows:
        output.print_note("No model is loaded: models load on first use, or with 'llb load ID'.")
        return 0
    print_table(
        ("ID", "NODE", "STATE", "MEMORY", "SLOTS BUSY", "CONTEXT"),
        rows,
        right_aligned=(3, 4, 5),
        droppable=(5, 3),
    )
    return 0


def _rows_of_node(node: NodeView) -> list[tuple[str, ...]]:
    return [
        (
            engine.model_id,
            node.name,
            f"{engine.state} (pinned)" if engine.pinned else str(engine.state),
            output.format_size(engine.memory_bytes),
            f"{engine.busy} of {engine.slots}",
            "-" if engine.context_length is None else str(engine.context_length),
        )
        for engine in node.engines
    ]


def show_model(options: argparse.Namespace) -> int:
    """`llb show ID`"""
    item = require_model(client_of(options), options.model_id)
    if options.json:
        output.print_json(item)
        return 0
    model = item.model
    lines = [
        ("ID", model.id),
        ("Name", model.name),
        ("Status", format_status(item) + (f": {item.error}" if item.error else "")),
        ("Description", model.description),
        ("Parameters", model.parameter_count or "-"),
        ("Quantization", model.quantization or "-"),
        ("Context", "-" if model.context_length is None else f"{model.context_length} tokens"),
        ("On one GPU", describe_cards(model.card_contexts)),
        ("Draft model", _describe_draft(item)),
        ("Speculation", _describe_speculation(item)),
        ("Capabilities", ", ".join(model.capabilities)),
        ("Size", output.format_size(item.total_bytes or model.size_bytes)),
        ("Memory", _describe_memory(item)),
        ("Repository", model.repo),
        ("File", model.recommended_filename),
        ("Nodes", ", ".join(f"{each.node_name} ({each.state})" for each in item.replicas) or "-"),
    ]
    output.print_details([(name, text) for name, text in lines if text])
    return 0


def _describe_draft(item: ModelWithStatus) -> str:
    """Return the id of the draft model, and of each engine whether it is used there."""
    return "" if item.model.draft is None else item.model.draft + _describe_use(item)


def _describe_speculation(item: ModelWithStatus) -> str:
    """Return how the model drafts for itself, and of each engine whether it does there."""
    speculation = item.model.speculation
    return "" if speculation is None else _SPECULATIONS[speculation] + _describe_use(item)


def _describe_use(item: ModelWithStatus) -> str:
    engines = [(each.node_name, each.engine) for each in item.replicas]
    drafts = [
        f"{node_name}: {_DRAFT_STATES[engine.draft.state]}"
        for node_name, engine in engines
        if engine is not None and engine.draft is not None
    ]
    return f" ({', '.join(drafts)})" if drafts else ""


def _describe_memory(item: ModelWithStatus) -> str:
    memory = item.memory
    text = f"minimum {output.format_size(memory.minimum_bytes)}"
    if memory.reserved_bytes is not None:
        text += f", reserved {output.format_size(memory.reserved_bytes)}"
        slots = "1 slot" if memory.slots == 1 else f"{memory.slots} slots"
        text += f" ({slots} of {memory.context_length} tokens)"
    if memory.used_bytes is not None:
        text += f", in use {output.format_size(memory.used_bytes)}"
    return text


def load_model(options: argparse.Namespace) -> int:
    """`llb load ID`"""
    client = client_of(options)
    item = require_model(client, options.model_id)
    model_id = item.model.id
    if item.status is not ModelStatus.READY:
        raise CommandError(f"Model '{model_id}' is not ready ({format_status(item)}): 'llb pull {model_id}'.")
    given = LoadOptions(context_length=options.context, slots=options.slots, keep_alive=options.keep_alive)
    request = LoadRequest(nodes=_node_ids(client, options.nodes))
    if given != LoadOptions():
        request = LoadRequest(options=given, nodes=request.nodes)
    began_at = time.monotonic()
    output.print_note(f"Loading {model_id} …")
    client.request("POST", f"{model_path_of(model_id)}/load", request, LOAD_TIMEOUT_S)
    loaded = require_model(client, model_id)
    output.print_line(
        f"{model_id} is loaded ({output.format_duration(time.monotonic() - began_at)}): "
        f"{_describe_memory(loaded)}."
    )
    note = note_on_context(options.context, loaded.memory.context_length, loaded.model.context_length)
    if note is not None:
        output.print_note(note)
    return 0


def note_on_context(wanted: int | None, reserved: int | None, longest: int | None) -> str | None:
    """Return why `reserved` tokens are fewer than `wanted`, None if they are not; `longest`: of the model."""
    if wanted is None or reserved is None or reserved >= wanted:
        return None
    limit = "the model has no more" if reserved == longest else "the memory allows no more"
    return f"The context is {reserved} tokens instead of {wanted}: {limit}."


def unload_model(options: argparse.Namespace) -> int:
    """`llb unload ID`"""
    client = client_of(options)
    model_id = require_model(client, options.model_id).model.id
    client.request("POST", f"{model_path_of(model_id)}/unload", {}, UNLOAD_TIMEOUT_S)
    output.print_line(f"{model_id} was unloaded; its files stay.")
    return 0


def _node_ids(client: ApiClient, names: list[str] | None) -> tuple[str, ...] | None:
    return None if not names else tuple(find_node(client, name).id for name in names)
