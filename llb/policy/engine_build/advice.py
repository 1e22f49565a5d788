"""Advice on the build of llama.cpp: why a better one is not in use, and how to fix that."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.policy.engine_build.choice import CPU, DOWNLOAD_BYTES, GpuFacts, HostFacts, choose_builds
from llb.texts.coded_text import CodedText, with_code_of

INSTALL_COMMAND = "llb engine install"


class InstalledBuild(Struct, frozen=True):
    """Build in use. `kind` is cpu, cuda, rocm, vulkan or metal; `gpu_count` devices that it computes on.

    `rejected` are the builds that were tried here and do not work, with the reason. `is_fixed`: the user
    chose it with 'llb engine use'.
    """

    kind: str
    variant: str = CPU
    gpu_count: int = 0
    rejected: tuple[tuple[str, str], ...] = ()
    is_fixed: bool = False


class BuildAdvice(Struct, frozen=True):
    """`reason`: why a better build is not in use. `problem`: the same, for a person who can fix it."""

    reason: str | None = None
    problem: str | None = None


def advise(facts: HostFacts, build: InstalledBuild, unusable: Sequence[str] = ()) -> BuildAdvice:
    """Return the advice on `build` for this host; `unusable` are names of visible GPUs that it cannot use."""
    if build.kind == "metal" or not facts.visible_gpus:
        return BuildAdvice()
    if build.gpu_count:
        return _advise_on_gpu(facts, build, unusable)
    names = _join(facts.visible_gpus)

    def unused(why: str) -> CodedText:
        return CodedText(
            "gpu_unused",
            "A GPU is present ({names}), but llama.cpp runs on the CPU: {why}",
            names=names,
            why=why,
        )

    if build.is_fixed:
        return BuildAdvice(unused(CodedText("gpu_unused_by_choice", "'llb engine use cpu' chose that.")))
    if build.kind != "cpu":
        text = unused(
            CodedText(
                "gpu_not_found",
                "the {build} build finds no GPU; see 'llb doctor'.",
                build=build.kind.upper(),
            )
        )
        return BuildAdvice(text, text)
    choice = choose_builds(facts)
    if choice.builds[0] == CPU:
        if choice.problem is not None:
            text = unused(_lower(choice.problem))
            return BuildAdvice(text, text)
        # Nothing to fix: an integrated GPU is not faster than its processor.
        return BuildAdvice(unused(CodedText("gpu_not_faster", "no build is faster on it.")))
    untried = [variant for variant in choice.builds if variant not in (CPU, *dict(build.rejected))]
    if not untried:
        variant = next(variant for variant in choice.builds if variant in dict(build.rejected))
        text = unused(
            CodedText(
                "gpu_build_broken",
                "build {variant} does not work: {detail}. Fix that, then run 'llb engine install'.",
                variant=variant,
                detail=dict(build.rejected)[variant],
            )
        )
        return BuildAdvice(text, text)
    size = format_size(DOWNLOAD_BYTES[untried[0]])
    install = CodedText("gpu_install_build", "run 'llb engine install' (about {size}).", size=size)
    if choice.problem is not None:
        install = CodedText(
            "gpu_install_and_fix", "{install} {problem}", install=install, problem=choice.problem
        )
    text = unused(install)
    return BuildAdvice(text, text)


def _advise_on_gpu(facts: HostFacts, build: InstalledBuild, unusable: Sequence[str]) -> BuildAdvice:
    better = choose_builds(facts).builds[0]
    rejected = dict(build.rejected)
    reason = None
    if better in rejected and better != build.variant:
        reason = CodedText(
            "gpu_better_build_broken",
            "Build {variant} does not work here: {detail}.",
            variant=better,
            detail=rejected[better],
        )
    if not unusable:
        return BuildAdvice(reason)
    names = ", ".join(dict.fromkeys(unusable))
    problem = CodedText(
        "gpu_not_usable",
        "The {build} build of llama.cpp cannot use {names}: models run on the other GPUs.",
        build=build.kind.upper(),
        names=names,
    )
    return BuildAdvice(reason or problem, problem)


def format_size(size_bytes: int) -> str:
    """Return a size of a download for people: 1.1 GB, 70 MB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _join(gpus: Sequence[GpuFacts]) -> str:
    return ", ".join(dict.fromkeys(gpu.name for gpu in gpus))


def _lower(sentence: str) -> str:
    if not sentence[1:2].islower():
        return sentence
    return with_code_of(sentence, sentence[0].lower() + sentence[1:])
