"""Commands for models: `llb models`, `llb rm`, `llb import`, `llb fit`."""

from __future__ import annotations

import argparse
import asyncio
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from llb.cli import output
from llb.cli.client import ApiClient, require_not_joined
from llb.cli.errors import ApiError, CommandError
from llb.cli.options import client_of, home_of
from llb.cli.tables import print_table
from llb.wire import (
    CardContext,
    DeviceFit,
    DraftState,
    FitReport,
    HostFit,
    ModelList,
    ModelStatus,
    ModelWithStatus,
    RegisterReply,
    Verdict,
)

if TYPE_CHECKING:
    from llb.hardware import MemoryBudget

# The header is read from the Hub if necessary.
FIT_TIMEOUT_S = 60.0
# As --parallel.
DEFAULT_SLOTS = 4
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
    if options.pulled:
        _print_pulled(found)
    else:
        print_table(
            ("ID", "NAME", "SIZE", "MEMORY", "STATUS", "FIT"),
            [_model_row(item) for item in found],
            right_aligned=(2, 3),
            flexible=1,
            droppable=(1, 5, 3),
        )
    for item in found:
        if item.error is not None:
            output.print_note(f"{item.model.id}: {item.error}")
    return 0


def remove_models(options: argparse.Namespace) -> int:
    """`llb rm ID …`: nothing is removed if one of the ids is unknown."""
    client = client_of(options)
    for item in [require_model(client, model_id) for model_id in dict.fromkeys(options.model_ids)]:
        _remove_model(client, item, assume_yes=options.yes)
    return 0


def _remove_model(client: ApiClient, item: ModelWithStatus, *, assume_yes: bool) -> None:
    model_id = item.model.id
    if item.partial is not None:
        size = output.format_size(item.partial.disk_bytes)
        if not output.confirm(f"Discard {size} of a cancelled pull of {model_id}?", assume_yes=assume_yes):
            raise CommandError("Nothing was removed.")
        client.delete(f"{model_path_of(model_id)}?discard=true")
        output.print_line(f"{size} of a cancelled pull of {model_id} were discarded.")
        return
    if item.status is ModelStatus.AVAILABLE:
        raise CommandError(f"Model '{model_id}' has not been pulled: there is nothing to remove.")
    pulling = item.status in (ModelStatus.DOWNLOADING, ModelStatus.REGISTERED)
    question = f"Cancel the pull of {model_id}?" if pulling else f"Remove {model_id} from every node?"
    if not output.confirm(question, assume_yes=assume_yes):
        raise CommandError("Nothing was removed.")
    client.delete(model_path_of(model_id))
    if pulling:
        output.print_line(
            f"The pull of {model_id} was cancelled; anything downloaded so far is kept for a later pull."
        )
    else:
        output.print_line(f"{model_id} was removed.")


def import_model(options: argparse.Namespace) -> int:
    """`llb import FILE`"""
    path = Path(options.file).expanduser().absolute()
    if not path.is_file():
        raise CommandError(f"There is no file {path}.")
    require_not_joined(home_of(options))
    client = client_of(options)
    body = {"path": str(path), "model_id": options.model}
    output.print_note(f"Reading {path.name} ({output.format_size(path.stat().st_size)}) …")
    reply = client.post("/api/models/import", body, RegisterReply, IMPORT_TIMEOUT_S)
    output.print_line(
        f"{path.name} was imported as {reply.model_id}; 'llb pull {reply.model_id}' shows when it is ready."
    )
    return 0


def show_fit(options: argparse.Namespace) -> int:
    """`llb fit ID|FILE.gguf`"""
    path = Path(options.model).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        report = _fit_of_file(path, options)
    else:
        client = client_of(options)
        require_model(client, options.model)
        query = {
            "vram": None if options.vram is None else ",".join(map(str, options.vram)),
            "ram": options.ram,
            "context_length": options.context,
            "slots": options.slots,
        }
        given = urlencode({name: value for name, value in query.items() if value is not None})
        report = client.get(f"{model_path_of(options.model)}/fit?{given}", FitReport, FIT_TIMEOUT_S)
    if options.json:
        output.print_json(report)
    else:
        _print_fit(report)
    return 0 if report.fits else 1


def _fit_of_file(path: Path, options: argparse.Namespace) -> FitReport:
    """Report for a file of this host, which need not be in the catalogue; all shards of a split model."""
    from llb import gguf
    from llb.hardware import EngineBuild, usual_cards
    from llb.policy.memory import FitRequest, report_fit

    try:
        headers = []
        for shard in gguf.shards_of(path):
            with shard.open("rb") as file:
                headers.append(gguf.read_metadata(file, file_size=shard.stat().st_size))
        shape = gguf.build_model_shape(headers)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except gguf.GgufError as error:
        raise CommandError(f"{path} cannot be used: {error}.") from None
    budget, devices = _described_or_own_host(options)
    request = FitRequest(
        model=path.name,
        shape=shape,
        slots=options.slots or DEFAULT_SLOTS,
        context_length=options.context,
        pooled=any(header.pooling not in (None, "none") for header in headers),
        llama_build=EngineBuild().llama_build,
        cards=usual_cards(),
    )
    return report_fit(request, budget.free_memory(), devices)


def _described_or_own_host(
    options: argparse.Namespace,
) -> tuple[MemoryBudget, tuple[tuple[str, str], ...]]:
    """Memory of the host that the flags describe, or else of this one; name and kind of each GPU."""
    from llb import hardware
    from llb.engine.builds.overlays import overlay_store

    if options.vram is not None or options.ram is not None:
        sizes = options.vram or ()
        budget = hardware.MemoryBudget.of_described_host(options.ram or hardware.memory_total_bytes(), sizes)
        return budget, tuple((f"GPU{index}", "gpu") for index in range(len(sizes)))

    async def probe() -> hardware.HardwareInfo:
        store = overlay_store(home_of(options), hardware.installed_version())
        hardware_probe = hardware.HardwareProbe(get_build=store.select)
        try:
            return await hardware_probe.probe()
        finally:
            hardware_probe.close()

    info = asyncio.run(probe())
    return info.memory_budget(), tuple((gpu.description or gpu.name, gpu.kind) for gpu in info.gpus)


def _print_fit(report: FitReport) -> None:
    if report.fits:
        slots = "1 slot" if report.slots == 1 else f"{report.slots} slots"
        output.print_line(f"{report.model} fits: {slots} of {report.context_length} tokens.")
    else:
        output.print_line(f"{report.model} does not fit.")
    if report.reason is not None:
        output.print_line(report.reason)
    if report.fits:
        _print_devices(report)
    if report.draft is not None and report.draft.state is DraftState.USED:
        output.print_line()
        output.print_line(
            f"Of this, {output.format_size(report.draft.total_bytes)} are for drafts by "
            f"{report.draft.model_id if report.draft.speculation is None else 'the model itself'}."
        )
    if report.cards:
        output.print_line()
        output.print_line(f"On one GPU, one conversation gets: {describe_cards(report.cards)}.")


def _print_devices(report: FitReport) -> None:
    output.print_line()
    rows = [
        (device.name, _format_layers(device), *_sizes_of(device), output.format_size(device.limit_bytes))
        for device in report.devices
    ]
    print_table(
        ("WHERE", "LAYERS", "WEIGHTS", "KV CACHE", "COMPUTE", "OTHER", "TOTAL", "OF"),
        [*rows, ("RAM", "", *_sizes_of(report.host), "")],
        right_aligned=range(1, 8),
        flexible=0,
        droppable=(5, 4),
    )


def describe_cards(cards: Iterable[CardContext]) -> str:
    """Return the context on each GPU that holds a whole model: `8 GB: 32768 tokens, 16 GB: …`."""
    return ", ".join(f"{card.vram_gb} GB: {card.context_length} tokens" for card in cards)


def _format_layers(device: DeviceFit) -> str:
    on_host = device.expert_layers_on_host
    return f"{device.layers} ({on_host} with experts in RAM)" if on_host else str(device.layers)


def _sizes_of(part: HostFit | DeviceFit) -> tuple[str, ...]:
    sizes = (part.weights_bytes, part.kv_bytes, part.compute_bytes, part.other_bytes, part.total_bytes)
    return tuple(output.format_size(size) for size in sizes)


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
    similar = _similar_ids(model_id.lower(), ids)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "'llb models' lists the available ones."
    return f"There is no model '{model_id}': {hint}"


def _similar_ids(wanted: str, ids: list[str]) -> list[str]:
    """At most three ids: those that begin with `wanted`, then those spelled like it, then those with it."""
    letters = "".join(char for char in wanted if char.isalnum())
    beginning = [name for name in ids if name.replace("-", "").replace(".", "").startswith(letters)]
    alike = difflib.get_close_matches(wanted, ids, n=3)
    containing = [name for name in ids if wanted in name]
    return list(dict.fromkeys([*(beginning if letters else ()), *alike, *containing]))[:3]


def format_status(item: ModelWithStatus) -> str:
    """Status of a model, with the progress of its download."""
    if item.status is ModelStatus.DOWNLOADING:
        return f"{item.status} {output.format_percent(item.download_progress)}"
    loaded = any(replica.engine is not None for replica in item.replicas)
    return f"{item.status} (loaded)" if loaded else str(item.status)


def _disk_bytes(item: ModelWithStatus) -> int:
    """Bytes that a model occupies on the disks of all nodes."""
    stored = sum(replica.size_bytes for replica in item.replicas if replica.path is not None)
    return stored + (item.partial.disk_bytes if item.partial is not None else 0)


def _print_pulled(found: Sequence[ModelWithStatus]) -> None:
    """Print what a person needs to choose a model to remove; the largest first."""
    rows = []
    for item in sorted(found, key=_disk_bytes, reverse=True):
        used = max((replica.last_used or 0.0 for replica in item.replicas), default=0.0)
        nodes = ", ".join(sorted(each.node_name for each in item.replicas if each.path is not None))
        rows.append(
            (
                item.model.id,
                item.model.name,
                output.format_size(_disk_bytes(item)),
                format_status(item),
                output.format_time(used) if used else "never",
                nodes or "-",
            )
        )
    print_table(
        ("ID", "NAME", "ON DISK", "STATUS", "LAST USED", "NODES"),
        rows,
        right_aligned=(2,),
        flexible=1,
        droppable=(1, 5),
    )
    total = output.format_size(sum(_disk_bytes(item) for item in found))
    output.print_note(f"{total} in all; 'llb rm ID …' frees it.")


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
