"""Matrix of architectures, devices and shares on GPUs: the planner's estimate and the engine's buffers.

With layers on GPUs the engine is llama-server with Vulkan, or a build of llb's own with it; without, it is
the installed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from llb import gguf
from llb.engine.planning.buffer_report import BufferPurpose, EngineBuffer, sum_buffers
from llb.engine.spec import EngineKind, EngineSpec, PoolingType
from llb.engine.worker import EXPERT_TENSORS
from llb.policy.memory import (
    DRAFT_TOKENS,
    MIB,
    PROJECTOR_COMPUTE_BYTES,
    FreeMemory,
    MemoryEstimate,
    ModelShape,
    choose_ubatch_tokens,
    estimate_memory,
)
from llb.policy.memory.draft_plan import plan_speculation
from llb.wire import KvCacheType, Speculation
from tests.ggufs import write_chat_model, write_embedding_model, write_hybrid_model, write_projector
from tests.gpu.llama_server import VulkanBuild, VulkanServer, read_own_buffers

MAX_DEVICES = 3
SHARES = ("full", "partial", "none")
# Beside a head for multi-token prediction: also the output with the head, and the output alone.
HEAD_SHARES = ("full", "partial", "head", "output", "none")
# Of a figure in llama.cpp's log.
ROUNDING_BYTES = MIB // 100


@dataclass(frozen=True)
class Tolerance:
    """Difference between plan and report that is allowed: a share of the report, and some bytes."""

    share: float
    size_bytes: int = ROUNDING_BYTES


WEIGHTS_TOLERANCE = Tolerance(0.02)
TOLERANCE = Tolerance(0.10)
# The formulas of compute buffers are those of attention; those of a hybrid model are off by up to two fifths,
# or by a row of a batch.
HYBRID_COMPUTE_TOLERANCE = Tolerance(0.45, MIB)

_ENOUGH_BYTES = 2**40

_SIZE: dict[str, Any] = {"layers": 8, "embd": 512, "heads": 8, "ff": 1408, "vocab": 4000, "context": 8192}


@dataclass(frozen=True)
class Architecture:
    """One synthetic model. `projector` is the text's embedding length for one that reads images."""

    name: str
    write: Callable[[Path], Path]
    context_length: int = 2048
    slots: int = 2
    expert_layers_on_host: int = 0
    pooled: bool = False
    has_projector: bool = False
    cache_type: KvCacheType = KvCacheType.F16
    speculation: Speculation | None = None
    compute_tolerance: Tolerance = TOLERANCE


def _chat(**numbers: Any) -> Callable[[Path], Path]:
    return lambda path: write_chat_model(path, **_SIZE | {"kv_heads": 8} | numbers)


def _head_architecture(
    name: str, *, context_length: int = 2048, slots: int = 2, **numbers: Any
) -> Architecture:
    """Return a hybrid model that drafts with a head for multi-token prediction."""
    size = _SIZE | {"kv_heads": 4, "attention_interval": 4, "mtp_layers": 1} | numbers
    return Architecture(
        name,
        lambda path: write_hybrid_model(path, **size),
        context_length=context_length,
        slots=slots,
        speculation=Speculation.MTP,
        compute_tolerance=HYBRID_COMPUTE_TOLERANCE,
    )


ARCHITECTURES = (
    Architecture("dense", _chat()),
    Architecture("dense, tied", _chat(tied=True, quantization="Q8_0")),
    Architecture("grouped-query", _chat(kv_heads=2, quantization="Q8_0"), context_length=4096),
    Architecture("grouped-query, tied, bias", _chat(arch="qwen2", kv_heads=2, tied=True), slots=4),
    Architecture(
        "large vocabulary, tied", _chat(kv_heads=2, vocab=60_000, tied=True, embd=256, ff=704), slots=1
    ),
    Architecture("window", _chat(arch="gemma3", sliding_window=256, layers=12), context_length=4096),
    Architecture("window, tied", _chat(arch="gemma3", sliding_window=256, tied=True, kv_heads=4)),
    Architecture("mixture of experts", _chat(kv_heads=4, experts=8, ff=512, quantization="Q8_0")),
    Architecture(
        "experts in RAM", _chat(kv_heads=4, experts=8, ff=512, quantization="Q8_0"), expert_layers_on_host=5
    ),
    Architecture("KV cache in q8_0", _chat(kv_heads=4), cache_type=KvCacheType.Q8_0),
    Architecture("projector", _chat(kv_heads=4), has_projector=True),
    Architecture(
        "embedding",
        lambda path: write_embedding_model(path, layers=6, embd=384, heads=6, ff=1536, vocab=8000),
        context_length=512,
        slots=1,
        pooled=True,
    ),
    _head_architecture("head", layers=8),
    _head_architecture("head, long context", layers=4, kv_heads=8, context_length=8192),
)


@dataclass(frozen=True)
class Case:
    """One architecture on a number of devices; `share` names the layers on them."""

    architecture: Architecture
    devices: int
    share: str

    @property
    def name(self) -> str:
        return f"{self.architecture.name}, {self.devices} x {self.share}"


@dataclass(frozen=True)
class Comparison:
    """One buffer: `place` is the device, or host."""

    place: str
    purpose: str
    planned_bytes: int
    reported_bytes: int
    tolerance: Tolerance

    @property
    def is_within_tolerance(self) -> bool:
        difference = abs(self.planned_bytes - self.reported_bytes)
        return difference <= self.reported_bytes * self.tolerance.share + self.tolerance.size_bytes

    def __str__(self) -> str:
        planned, reported = self.planned_bytes / MIB, self.reported_bytes / MIB
        return f"{self.place} {self.purpose}: planned {planned:.2f} MiB, reported {reported:.2f} MiB"


@dataclass(frozen=True)
class Model:
    """Files of an architecture, and what the planner reads from them."""

    path: Path
    projector: Path | None
    shape: ModelShape
    header_bytes: int


def cases(architectures: Sequence[Architecture] = ARCHITECTURES) -> Iterator[Case]:
    """Yield every case of these architectures."""
    for architecture in architectures:
        for devices in range(1, MAX_DEVICES + 1):
            for share in SHARES if architecture.speculation is None else HEAD_SHARES:
                yield Case(architecture, devices, share)


def write_model(architecture: Architecture, folder: Path) -> Model:
    """Write the files of an architecture and read their headers."""
    path = architecture.write(folder / f"{architecture.name}.gguf")
    projector = write_projector(folder / "mmproj.gguf", text_embd=_SIZE["embd"])
    paths = [path, *([projector] if architecture.has_projector else [])]
    metadata = []
    for each in paths:
        with each.open("rb") as file:
            metadata.append(gguf.read_metadata(file, file_size=each.stat().st_size))
    return Model(
        path,
        projector if architecture.has_projector else None,
        gguf.build_model_shape(metadata),
        metadata[0].data_start,
    )


def run_case(case: Case, model: Model, engine: VulkanServer | VulkanBuild) -> list[Comparison]:
    """Return the comparison of every buffer of the engine that the planner describes."""
    estimate, spec = plan_case(case, model, engine.llama_build)
    names = [f"Vulkan{index}" for index in range(case.devices)]
    if not any(spec.gpu_layers):
        buffers = read_own_buffers(spec)
    elif isinstance(engine, VulkanBuild):
        buffers = engine.read_buffers(spec)
    else:
        buffers = engine.read_buffers(_arguments(spec), devices=case.devices)
    return list(compare(estimate, buffers, model, names, case.architecture.compute_tolerance))


def plan_case(case: Case, model: Model, llama_build: int | None = None) -> tuple[MemoryEstimate, EngineSpec]:
    """Return the planner's estimate, and the specification of the engine for it."""
    architecture, shape = case.architecture, model.shape
    gpu_layers = _spread(shape, case)
    experts = architecture.expert_layers_on_host if any(gpu_layers) else 0
    context, slots, pooled = architecture.context_length, architecture.slots, architecture.pooled
    ubatch = choose_ubatch_tokens(
        shape, context_length=context, slots=slots, is_offloaded=any(gpu_layers), pooled=pooled
    )
    estimate = estimate_memory(
        shape,
        context_length=context,
        slots=slots,
        gpu_layers=gpu_layers,
        expert_layers_on_host=experts,
        pooled=pooled,
        cache_type=architecture.cache_type,
        llama_build=llama_build,
    )
    spec = EngineSpec(
        model_path=str(model.path),
        projector_path=str(model.projector) if model.projector is not None else None,
        alias="matrix",
        kind=EngineKind.EMBEDDING if pooled else EngineKind.CHAT,
        pooling=PoolingType.MEAN if pooled else None,
        context_length=context,
        slots=slots,
        gpu_layers=gpu_layers,
        expert_layers_on_host=experts,
        batch_tokens=ubatch,
        ubatch_tokens=ubatch,
        prompt_cache_bytes=0,
        kv_cache_type=architecture.cache_type,
        mmap=False,
        threads=2,
        api_key="matrix",
    )
    if architecture.speculation is None:
        return estimate, spec
    drafting = plan_speculation(
        shape,
        architecture.speculation,
        spec,
        estimate=estimate,
        free=FreeMemory(_ENOUGH_BYTES, tuple(_ENOUGH_BYTES for _ in gpu_layers)),
        llama_build=llama_build,
    )
    assert drafting is not None
    return drafting.estimate, msgspec.structs.replace(spec, speculation=architecture.speculation)


def _arguments(spec: EngineSpec) -> list[str]:
    """Return the arguments of llama-server for a specification, as the worker sets its parameters."""
    arguments = [
        *("-m", spec.model_path, "--no-mmap", "-ngl", str(sum(spec.gpu_layers)), "-np", str(spec.slots)),
        *("-c", str(spec.context_length * spec.slots), "-b", str(spec.batch_tokens)),
        *("-ub", str(spec.ubatch_tokens)),
        *("-ctk", spec.kv_cache_type.value, "-ctv", spec.kv_cache_type.value),
    ]
    if len(spec.gpu_layers) > 1:
        arguments += ["-ts", ",".join(map(str, spec.gpu_layers))]
    if spec.expert_layers_on_host:
        layers = "|".join(map(str, range(spec.expert_layers_on_host)))
        arguments += ["-ot", rf"blk\.({layers})\.{EXPERT_TENSORS}=CPU"]
    if spec.speculation is Speculation.MTP:
        arguments += ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(DRAFT_TOKENS)]
    if spec.pooling is not None:
        arguments += ["--embedding", "--pooling", spec.pooling.value]
    if spec.projector_path is not None:
        arguments += ["--mmproj", spec.projector_path]
    return arguments


def _spread(shape: ModelShape, case: Case) -> tuple[int, ...]:
    """Return the layers of each device: as even as they can be, the first devices have more."""
    whole = shape.max_gpu_layers
    total = {"full": whole, "partial": whole // 2, "head": 2, "output": 1, "none": 0}[case.share]
    each, rest = divmod(total, case.devices)
    return tuple(each + (index < rest) for index in range(case.devices))


def compare(
    estimate: MemoryEstimate,
    buffers: Sequence[EngineBuffer],
    model: Model,
    names: Sequence[str],
    compute_tolerance: Tolerance = TOLERANCE,
) -> Iterator[Comparison]:
    """Yield the comparison of the host's buffers, and of those of the devices with these names."""
    kv, compute = (BufferPurpose.KV, BufferPurpose.STATE), (BufferPurpose.COMPUTE,)
    host_weights = estimate.weights.ram_bytes - model.header_bytes
    yield _comparison(
        "host", "weights", host_weights, buffers, None, (BufferPurpose.MODEL,), WEIGHTS_TOLERANCE
    )
    yield _comparison("host", "KV cache", estimate.kv_cache.ram_bytes, buffers, None, kv)
    # The encoder's buffer is left out: its size is that of the image, and llama-server, which is not warmed
    # up here, does not reserve it.
    encoder = PROJECTOR_COMPUTE_BYTES if model.projector is not None else 0
    host_encoder = 0 if estimate.weights.total_vram_bytes else encoder
    host_compute = estimate.compute.ram_bytes - host_encoder
    yield _comparison("host", "compute", host_compute, buffers, None, compute, compute_tolerance)
    for index, device in enumerate(names):
        weights = estimate.weights.vram_bytes[index]
        yield _comparison(
            device, "weights", weights, buffers, device, (BufferPurpose.MODEL,), WEIGHTS_TOLERANCE
        )
        yield _comparison(device, "KV cache", estimate.kv_cache.vram_bytes[index], buffers, device, kv)
        planned = estimate.compute.vram_bytes[index] - (encoder - host_encoder if index == 0 else 0)
        yield _comparison(device, "compute", planned, buffers, device, compute, compute_tolerance)


def _comparison(
    place: str,
    purpose: str,
    planned_bytes: int,
    buffers: Sequence[EngineBuffer],
    device: str | None,
    purposes: Sequence[BufferPurpose],
    tolerance: Tolerance = TOLERANCE,
) -> Comparison:
    return Comparison(place, purpose, planned_bytes, sum_buffers(buffers, device, purposes), tolerance)
