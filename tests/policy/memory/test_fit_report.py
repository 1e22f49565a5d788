"""Fit report: where the parts of a model lie, and the reason for less than was wanted."""

from __future__ import annotations

from msgspec.structs import replace

from llb.policy.memory import FitRequest, FreeMemory, report_fit
from llb.wire import DraftFit, DraftState, Speculation
from tests.shapes import LLAMA_8B, TINY

GIB = 2**30
CARD = ("NVIDIA RTX 3060", "gpu")


def request(context_length: int | None = None, slots: int = 1) -> FitRequest:
    return FitRequest("llama-8b", LLAMA_8B, slots, context_length)


def test_the_parts_of_each_device_add_up() -> None:
    report = report_fit(request(), FreeMemory(32 * GIB, (6 * GIB, 12 * GIB)), (CARD, CARD))
    assert (report.fits, report.reason, report.context_length, report.slots) == (True, None, 8192, 1)
    unused, used = report.devices
    assert (unused.layers, unused.total_bytes, unused.limit_bytes) == (0, 0, 6 * GIB)
    assert (used.name, used.kind, used.layers, used.limit_bytes) == (*CARD, 33, 12 * GIB)
    for part in (used, report.host):
        assert part.total_bytes == (
            part.weights_bytes + part.kv_bytes + part.compute_bytes + part.other_bytes
        )
    assert used.kv_bytes == 1024 * 2**20
    assert used.total_bytes <= used.limit_bytes


def test_a_shorter_context_and_layers_in_ram_are_told() -> None:
    shorter = report_fit(request(32768), FreeMemory(32 * GIB, (8 * GIB,)), (CARD,))
    assert shorter.fits
    assert shorter.reason == (
        f"A context of 32768 tokens per slot does not fit; {shorter.context_length} tokens do."
    )
    partly = report_fit(request(8192), FreeMemory(32 * GIB, (3 * GIB,)), (CARD,))
    fitting = partly.devices[0].layers
    assert partly.reason == (
        f"{fitting} of 33 layers fit into the memory of the GPU; the CPU computes the others."
    )
    none = report_fit(request(8192), FreeMemory(32 * GIB, (GIB // 4,)), (CARD,))
    assert none.reason == "No layer fits into the memory of the GPU; the CPU computes them."
    assert report_fit(request(8192), FreeMemory(32 * GIB), ()).reason is None


def test_a_quantized_kv_cache_is_told() -> None:
    shape = replace(LLAMA_8B, has_quantizable_kv_cache=True)
    report = report_fit(FitRequest("llama-8b", shape, 1, 32768), FreeMemory(8 * GIB), ())
    assert (report.fits, report.context_length, report.kv_cache_type) == (True, 32768, "q8_0")
    assert report.reason is not None
    assert report.reason.startswith("The KV cache is kept as q8_0 instead of f16")


def test_experts_in_ram_are_told() -> None:
    layers = tuple(replace(layer, expert_bytes=100 * 2**20) for layer in LLAMA_8B.layers)
    mixture = FitRequest("mixture", replace(LLAMA_8B, layers=layers), 1, 8192)
    report = report_fit(mixture, FreeMemory(32 * GIB, (5 * GIB,)), (CARD,))
    on_host = report.devices[0].expert_layers_on_host
    assert 0 < on_host <= 32
    assert report.devices[0].layers == 33
    assert report.reason == f"The experts of {on_host} of 32 layers are in RAM, where the CPU computes them."


def test_a_model_that_does_not_fit_has_the_numbers() -> None:
    report = report_fit(request(), FreeMemory(2 * GIB, (GIB,)), (CARD,))
    assert (report.fits, report.context_length) == (False, 0)
    assert report.reason == ("With the shortest context, 512 tokens, it needs 5.1GB; 3.2GB can be used.")
    assert report.devices[0].limit_bytes == GIB


def test_drafts_are_counted() -> None:
    free = FreeMemory(32 * GIB, (12 * GIB,))
    plain = report_fit(request(), free, (CARD,))
    drafted = report_fit(replace(request(), draft_id="tiny", draft_shape=TINY), free, (CARD,))
    assert plain.draft is None
    assert drafted.draft is not None
    assert (drafted.draft.model_id, drafted.draft.state, drafted.reason) == ("tiny", "used", None)
    assert (drafted.context_length, drafted.devices[0].layers) == (8192, 33)
    more = drafted.devices[0].total_bytes - plain.devices[0].total_bytes
    more += drafted.host.total_bytes - plain.host.total_bytes
    assert drafted.draft.total_bytes == more > TINY.weight_bytes
    ngrams = report_fit(replace(request(), speculation=Speculation.NGRAM), free, (CARD,)).draft
    assert ngrams is not None
    assert (ngrams.model_id, ngrams.state, ngrams.speculation) == ("llama-8b", "used", "ngram")


def test_why_there_are_no_drafts_is_told() -> None:
    free = FreeMemory(32 * GIB)
    missing = report_fit(replace(request(), draft_id="tiny"), free, ())
    assert missing.draft == DraftFit(model_id="tiny", state=DraftState.MISSING)
    assert missing.reason == "Its draft model, tiny, is not there."
    headless = report_fit(replace(request(), speculation=Speculation.MTP), free, ())
    assert headless.reason == "Its architecture allows no drafts (mtp)."
    just_enough = FreeMemory(report_fit(request(512), free, ()).host.total_bytes)
    beside = report_fit(replace(request(512), draft_id="tiny", draft_shape=TINY), just_enough, ())
    assert beside.reason == "Drafts (tiny) do not fit beside it."
    assert beside.reason_codes[0].code == "fit_draft_memory"
