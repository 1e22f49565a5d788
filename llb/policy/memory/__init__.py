"""Memory policy: what an engine needs, what is free, and the best load within it. Pure.

`load_plan` fits the sum of `estimate` into the free memory; `calibration` corrects the sum by measurements on
this host; `fit_report` describes the plan.
"""

from llb.policy.memory.calibration import (
    NEUTRAL,
    NEUTRAL_GPU,
    GpuCalibration,
    MemoryCalibration,
    excess_factor,
)
from llb.policy.memory.compute_buffers import PROJECTOR_COMPUTE_BYTES
from llb.policy.memory.draft_plan import plan_drafts
from llb.policy.memory.engine_parameters import (
    CPU_UBATCH_TOKENS,
    DEFAULT_CONTEXT,
    DRAFT_TOKENS,
    MIN_CONTEXT,
    NGRAM_DRAFT_TOKENS,
    PROMPT_CACHE_LIMIT_BYTES,
    UBATCH_TOKENS,
    choose_ubatch_tokens,
)
from llb.policy.memory.estimate import MemoryEstimate, estimate_memory
from llb.policy.memory.fit_report import FitRequest, card_contexts, report_fit
from llb.policy.memory.free_memory import FreeMemory, Memory
from llb.policy.memory.load_plan import LoadPlan, estimate_least_memory, plan_load
from llb.policy.memory.model_shape import MIB, Layer, ModelShape

__all__ = [
    "CPU_UBATCH_TOKENS",
    "DEFAULT_CONTEXT",
    "DRAFT_TOKENS",
    "MIB",
    "MIN_CONTEXT",
    "NEUTRAL",
    "NEUTRAL_GPU",
    "NGRAM_DRAFT_TOKENS",
    "PROJECTOR_COMPUTE_BYTES",
    "PROMPT_CACHE_LIMIT_BYTES",
    "UBATCH_TOKENS",
    "FitRequest",
    "FreeMemory",
    "GpuCalibration",
    "Layer",
    "LoadPlan",
    "Memory",
    "MemoryCalibration",
    "MemoryEstimate",
    "ModelShape",
    "card_contexts",
    "choose_ubatch_tokens",
    "estimate_least_memory",
    "estimate_memory",
    "excess_factor",
    "plan_drafts",
    "plan_load",
    "report_fit",
]
