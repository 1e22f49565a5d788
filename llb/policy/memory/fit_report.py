"""Fit report: the plan of a model on a host, device by device. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from llb.errors import format_gigabytes
from llb.policy.memory.calibration import NEUTRAL, MemoryCalibration
from llb.policy.memory.draft_plan import plan_drafts
from llb.policy.memory.engine_parameters import DEFAULT_CONTEXT, MIN_CONTEXT
from llb.policy.memory.free_memory import FreeMemory
from llb.policy.memory.load_plan import LoadPlan, estimate_least_memory, plan_load
from llb.policy.memory.model_shape import ModelShape
from llb.texts.coded_text import CodedText
from llb.wire import (
    CardContext,
    DeviceFit,
    DraftFit,
    DraftState,
    FitReport,
    HostFit,
    KvCacheType,
    Speculation,
    TextCode,
    Verdict,
    text_code_of,
)


class FitRequest(Struct, frozen=True):
    """Model and engine that a report is about; `context_length` in tokens per slot, None for the default."""

    model: str
    shape: ModelShape
    slots: int
    context_length: int | None
    pooled: bool = False
    # Calibration by earlier engines of this model on this host.
    calibration: MemoryCalibration = NEUTRAL
    # As in `estimate_memory`.
    llama_build: int | None = None
    # GPUs of usual sizes to report about: 10⁹ bytes, and the memory of a host with one.
    cards: tuple[tuple[int, FreeMemory], ...] = ()
    # Draft model, with its shape where the host has it; and how the model drafts for itself.
    draft_id: str | None = None
    draft_shape: ModelShape | None = None
    speculation: Speculation | None = None


def report_fit(request: FitRequest, free: FreeMemory, devices: tuple[tuple[str, str], ...]) -> FitReport:
    """Return the report for a host with `free` memory; `devices` are name and kind of each GPU."""
    plan = plan_load(
        request.shape,
        slots=request.slots,
        requested_context=request.context_length,
        free=free,
        pooled=request.pooled,
        calibration=request.calibration,
        llama_build=request.llama_build,
    )
    if plan is None:
        return FitReport(
            model=request.model,
            fits=False,
            reason=str(against := _reason_against(request, free)),
            reason_codes=codes_of([against]),
            context_length=0,
            slots=request.slots,
            host=HostFit(),
            devices=tuple(
                DeviceFit(name=name, kind=kind, limit_bytes=limit)
                for (name, kind), limit in zip(devices, free.vram_bytes, strict=True)
            ),
            cards=_card_contexts(request),
        )
    plan, draft = _add_drafts(request, plan, free)
    return FitReport(
        model=request.model,
        fits=True,
        reason=" ".join(given_up := [*_given_up(request, plan), *_missing_drafts(draft)]) or None,
        reason_codes=codes_of(given_up),
        context_length=plan.context_length,
        slots=plan.slots,
        kv_cache_type=plan.cache_type,
        host=_host_fit(plan),
        devices=tuple(
            _device_fit(plan, index, name, kind, free.vram_bytes[index])
            for index, (name, kind) in enumerate(devices)
        ),
        draft=draft,
        cards=_card_contexts(request),
    )


def _add_drafts(request: FitRequest, plan: LoadPlan, free: FreeMemory) -> tuple[LoadPlan, DraftFit | None]:
    """Return the plan with the drafts that an engine would have, as `engine.drafts` adds them."""
    if request.pooled or (request.draft_id is None and request.speculation is None):
        return plan, None
    state, drafting = plan_drafts(
        request.shape,
        plan,
        estimate=plan.estimate,
        draft=request.draft_shape,
        speculation=request.speculation,
        free=free,
        llama_build=request.llama_build,
    )
    draft = DraftFit(
        model_id=request.draft_id or request.model,
        state=state,
        speculation=request.speculation,
        total_bytes=0 if drafting is None else drafting.estimate.total_bytes - plan.estimate.total_bytes,
    )
    return plan if drafting is None else replace(plan, estimate=drafting.estimate), draft


def _missing_drafts(draft: DraftFit | None) -> list[CodedText]:
    """Return why there are no drafts, as a sentence."""
    if draft is None or draft.state is DraftState.USED:
        return []
    drafter = draft.model_id if draft.speculation is None else str(draft.speculation)
    if draft.state is DraftState.MISSING:
        return [CodedText("fit_draft_missing", "Its draft model, {drafter}, is not there.", drafter=drafter)]
    if draft.state is DraftState.MEMORY:
        return [CodedText("fit_draft_memory", "Drafts ({drafter}) do not fit beside it.", drafter=drafter)]
    return [
        CodedText("fit_draft_unsuitable", "Its architecture allows no drafts ({drafter}).", drafter=drafter)
    ]


def card_contexts(
    shape: ModelShape, cards: Iterable[tuple[int, FreeMemory]], *, llama_build: int | None = None
) -> tuple[CardContext, ...]:
    """Return the context that one conversation gets on each of these GPUs that holds the whole model."""
    contexts = []
    for size_gb, free in cards:
        plan = plan_load(
            shape, slots=1, requested_context=shape.context_length, free=free, llama_build=llama_build
        )
        if plan is not None and plan.verdict is Verdict.FITS:
            contexts.append(CardContext(vram_gb=size_gb, context_length=plan.context_length))
    return tuple(contexts)


def _card_contexts(request: FitRequest) -> tuple[CardContext, ...]:
    # The context of what is pooled is that of one text, whatever the GPU.
    cards = () if request.pooled else request.cards
    return card_contexts(request.shape, cards, llama_build=request.llama_build)


def _host_fit(plan: LoadPlan) -> HostFit:
    estimate = plan.estimate
    return HostFit(
        weights_bytes=estimate.weights.ram_bytes,
        kv_bytes=estimate.kv_cache.ram_bytes,
        compute_bytes=estimate.compute.ram_bytes,
        other_bytes=estimate.output_bytes
        + estimate.checkpoint_bytes
        + estimate.prompt_cache_bytes
        + estimate.overhead.ram_bytes,
        total_bytes=estimate.ram_bytes,
    )


def _device_fit(plan: LoadPlan, index: int, name: str, kind: str, limit_bytes: int) -> DeviceFit:
    estimate = plan.estimate
    return DeviceFit(
        name=name,
        kind=kind,
        layers=plan.gpu_layers[index],
        expert_layers_on_host=_expert_layers_on_host(plan, index),
        weights_bytes=estimate.weights.vram_bytes[index],
        kv_bytes=estimate.kv_cache.vram_bytes[index],
        compute_bytes=estimate.compute.vram_bytes[index],
        other_bytes=estimate.overhead.vram_bytes[index] if estimate.overhead.vram_bytes else 0,
        total_bytes=estimate.vram_bytes[index],
        limit_bytes=limit_bytes,
    )


def _expert_layers_on_host(plan: LoadPlan, index: int) -> int:
    """Return the layers on this GPU whose experts lie in RAM: of all layers those at the front."""
    if not plan.expert_layers_on_host:
        return 0
    before = sum(plan.gpu_layers[:index])
    return max(0, min(plan.gpu_layers[index], plan.expert_layers_on_host - before))


def codes_of(sentences: Iterable[CodedText]) -> tuple[TextCode, ...]:
    return tuple(filter(None, map(text_code_of, sentences)))


def _reason_against(request: FitRequest, free: FreeMemory) -> CodedText:
    least = estimate_least_memory(request.shape, slots=request.slots, pooled=request.pooled)
    available = free.ram_bytes + (0 if free.is_shared else sum(free.vram_bytes))
    return CodedText(
        "fit_too_large",
        "With the shortest context, {tokens} tokens, it needs {required}; {available} can be used.",
        tokens=MIN_CONTEXT,
        required=format_gigabytes(least.total_bytes),
        available=format_gigabytes(available),
    )


def _given_up(request: FitRequest, plan: LoadPlan) -> list[CodedText]:
    """Return the compromises of the plan, as sentences."""
    sentences = []
    wanted = min(request.context_length or DEFAULT_CONTEXT, request.shape.context_length or 0)
    if not request.pooled and plan.context_length < wanted:
        sentences.append(
            CodedText(
                "fit_shorter_context",
                "A context of {wanted} tokens per slot does not fit; {tokens} tokens do.",
                wanted=wanted,
                tokens=plan.context_length,
            )
        )
    if plan.cache_type is not KvCacheType.F16:
        sentences.append(
            CodedText(
                "fit_smaller_cache",
                "The KV cache is kept as {type} instead of f16: it takes half the memory, prompts are "
                "computed more slowly, and answers may differ.",
                type=plan.cache_type.value,
            )
        )
    if plan.expert_layers_on_host:
        sentences.append(
            CodedText(
                "fit_experts_in_ram",
                "The experts of {layers} of {total} layers are in RAM, where the CPU computes them.",
                layers=plan.expert_layers_on_host,
                total=len(request.shape.layers),
            )
        )
    if plan.gpu_layers and (on_gpu := sum(plan.gpu_layers)) < request.shape.max_gpu_layers:
        sentences.append(
            CodedText(
                "fit_part_on_gpu",
                "{layers} of {total} layers fit into the memory of the GPU; the CPU computes the others.",
                layers=on_gpu,
                total=request.shape.max_gpu_layers,
            )
            if on_gpu
            else CodedText(
                "fit_none_on_gpu", "No layer fits into the memory of the GPU; the CPU computes them."
            )
        )
    return sentences
