"""A llama.cpp engine in simulated time: slots that keep their last conversation, one batch after the other.

What it takes over from llama.cpp's server, as its source has it (`get_available_slot`, `server_prompt_cache`,
`update_slots`), with what llb starts it with. A request gets the idle slot that has most of it in common, if that is more
than a tenth, else the one that was used least recently. What the slot then loses goes to a cache in RAM, from which
the oldest drop out, and what fits better comes back from there. A batch is a token of every slot that writes, filled up to
512 with the prompt that came first."""

from __future__ import annotations

from dataclasses import dataclass, field

from llb.policy.memory import UBATCH_TOKENS

SIMILAR = 0.1  # `slot_prompt_similarity`
KEEPS_HALF = 0.5  # a slot that keeps less of its conversation saves it first
RESTORED_LEAST = 0.25
DONE = 1e-6  # tokens: what rounding leaves


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Tokens of a conversation so far: those of a system prompt that others have too, then its own."""

    session: int
    system: int
    system_tokens: int
    tokens: int

    def common(self, other: Prompt) -> int:
        """How many tokens both begin with."""
        if self.session == other.session:
            return min(self.tokens, other.tokens)
        return self.system_tokens if self.system == other.system else 0


@dataclass(slots=True, eq=False)
class Job:
    """One request in an engine. Times are in seconds of the simulation."""

    prompt: Prompt
    answer_tokens: int
    arrived: float
    slot: int = 0
    cached_tokens: int = 0
    prefill_left: float = 0.0
    decode_left: float = 0.0
    taken_at: float = 0.0
    prefill_began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0


@dataclass(slots=True, eq=False)
class Slot:
    kept: Prompt | None = None
    used_at: float = -1.0
    job: Job | None = None


@dataclass(slots=True, eq=False)
class Engine:
    """`prefill` is in tokens a second; a step in which `n` slots write a token each takes `step_s + n * token_s`."""

    slots: int
    prefill: float
    step_s: float
    token_s: float
    saved_tokens: int  # room in the RAM cache
    now: float = 0.0
    reading: list[Job] = field(default_factory=list)
    writing: list[Job] = field(default_factory=list)
    saved: list[Prompt] = field(default_factory=list)
    places: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = [Slot() for _ in range(self.slots)]

    # --- time ---------------------------------------------------------------------------------------

    def take(self, job: Job) -> None:
        """Begin with `job`, now; a slot must be free."""
        job.slot = self._place_for(job.prompt)
        place = self.places[job.slot]
        common = place.kept.common(job.prompt) if place.kept is not None else 0
        job.cached_tokens = min(common, job.prompt.tokens - 1)  # the last one is computed in any case
        job.prefill_left = job.prompt.tokens - job.cached_tokens
        job.decode_left = job.answer_tokens
        job.taken_at = job.prefill_began = self.now
        place.job = job
        self.reading.append(job)

    def advance(self, now: float) -> list[Job]:
        """Work until `now`, which is not after `next_at()`; returns the jobs that are done."""
        reads, writes = self._rates()
        passed_s, self.now = now - self.now, now
        for job in self.writing:
            job.decode_left -= passed_s * writes
        done = [job for job in self.writing if job.decode_left < DONE]
        for job in done:
            self._end(job)
        if self.reading:
            first = self.reading[0]
            first.prefill_left -= passed_s * reads
            if first.prefill_left < DONE:
                first.first_token = now
                self.writing.append(self.reading.pop(0))
                if self.reading:
                    self.reading[0].prefill_began = now
        return done

    def next_at(self) -> float | None:
        """When the next prompt has been read or the next answer written, if nothing comes in between."""
        reads, writes = self._rates()
        waits = [job.decode_left / writes for job in self.writing]
        if self.reading:
            waits.append(self.reading[0].prefill_left / reads)
        return self.now + max(0.0, min(waits)) if waits else None

    def _rates(self) -> tuple[float, float]:
        """Tokens a second: read of the first prompt, and written by each slot that writes."""
        step_s = self.step_s + self.token_s * len(self.writing) if self.writing else 0.0
        if self.reading:
            step_s += UBATCH_TOKENS / self.prefill
            return UBATCH_TOKENS / step_s, 1 / step_s
        return 0.0, 1 / step_s if step_s else 0.0

    def _end(self, job: Job) -> None:
        job.ended = self.now
        self.writing.remove(job)
        place, prompt = self.places[job.slot], job.prompt
        place.job, place.used_at = None, self.now
        place.kept = Prompt(
            prompt.session, prompt.system, prompt.system_tokens, prompt.tokens + job.answer_tokens
        )

    # --- what is cached -----------------------------------------------------------------------------

    def _place_for(self, prompt: Prompt) -> int:
        best, most = None, SIMILAR * prompt.tokens
        idle = [number for number, place in enumerate(self.places) if place.job is None]
        for number in idle:
            kept = self.places[number].kept
            if kept is not None and kept.common(prompt) > most:
                best, most = number, kept.common(prompt)
        if best is None:
            best = min(idle, key=lambda number: self.places[number].used_at)
            most = 0
        place = self.places[best]
        if place.kept is not None and most < KEEPS_HALF * place.kept.tokens:
            self._swap(place, place.kept, prompt)
        return best

    def _swap(self, place: Slot, old: Prompt, prompt: Prompt) -> None:
        """Save what the slot has, and fetch what has more of `prompt`."""
        if not any(kept.common(old) == old.tokens for kept in self.saved):
            self.saved = [kept for kept in self.saved if kept.common(old) < kept.tokens]
            self.saved.append(old)
        best, most, share = None, old.common(prompt), old.common(prompt) / old.tokens
        for kept in self.saved:
            common = kept.common(prompt)
            if common > most and common / kept.tokens > max(share, RESTORED_LEAST):
                best, most, share = kept, common, common / kept.tokens
        if best is not None:
            place.kept = best
            self.saved.remove(best)
        while sum(kept.tokens for kept in self.saved) > self.saved_tokens:
            self.saved.pop(0)
