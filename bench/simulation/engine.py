"""llama.cpp engine in simulated time: slots that keep their last conversation, one batch after the
other.

It follows the source of llama.cpp's server (`get_available_slot`, `server_prompt_cache`,
`update_slots`), with the parameters of llb. A request gets the idle slot with the longest common prefix,
if that is more than a tenth, else the least recently used one. What the slot loses goes to a cache in
RAM, which evicts the oldest entries; a better match is restored from there. A batch is one token of
every generating slot, filled up to 512 with the oldest prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llb.policy.memory import UBATCH_TOKENS

MIN_SIMILARITY = 0.1  # `slot_prompt_similarity`
SAVE_BELOW_SHARE = 0.5  # a slot that keeps less of its conversation saves it first
MIN_RESTORE_SHARE = 0.25
DONE_EPSILON_TOKENS = 1e-6  # tokens: what rounding leaves


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Tokens of a conversation so far: those of a shared system prompt, then its own."""

    session: int
    system: int
    system_tokens: int
    tokens: int

    def common_prefix_tokens(self, other: Prompt) -> int:
        """Return the number of tokens that both have as a common prefix."""
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
    started: float = 0.0
    prefill_began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0


@dataclass(slots=True, eq=False)
class SlotState:
    cached_prompt: Prompt | None = None
    used_at: float = -1.0
    job: Job | None = None


@dataclass(slots=True, eq=False)
class SimulatedEngine:
    """`prefill` is in tokens per second; a step with `n` generating slots takes `step_s + n * token_s`."""

    slots: int
    prefill_tokens_per_s: float
    step_s: float
    token_s: float
    prompt_cache_tokens: int  # room in the RAM cache
    now: float = 0.0
    prefilling: list[Job] = field(default_factory=list)
    decoding: list[Job] = field(default_factory=list)
    prompt_cache: list[Prompt] = field(default_factory=list)
    slot_states: list[SlotState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slot_states = [SlotState() for _ in range(self.slots)]

    # --- time ---------------------------------------------------------------------------------------

    def start_job(self, job: Job) -> None:
        """Start `job` now; a slot must be free."""
        job.slot = self._select_slot(job.prompt)
        place = self.slot_states[job.slot]
        common = (
            place.cached_prompt.common_prefix_tokens(job.prompt) if place.cached_prompt is not None else 0
        )
        job.cached_tokens = min(common, job.prompt.tokens - 1)  # the last one is computed in any case
        job.prefill_left = job.prompt.tokens - job.cached_tokens
        job.decode_left = job.answer_tokens
        job.started = job.prefill_began = self.now
        place.job = job
        self.prefilling.append(job)

    def advance(self, now: float) -> list[Job]:
        """Simulate until `now`, which is not after `next_event_at()`; return the completed jobs."""
        reads, writes = self._rates()
        passed_s, self.now = now - self.now, now
        for job in self.decoding:
            job.decode_left -= passed_s * writes
        done = [job for job in self.decoding if job.decode_left < DONE_EPSILON_TOKENS]
        for job in done:
            self._finish_job(job)
        if self.prefilling:
            first = self.prefilling[0]
            first.prefill_left -= passed_s * reads
            if first.prefill_left < DONE_EPSILON_TOKENS:
                first.first_token = now
                self.decoding.append(self.prefilling.pop(0))
                if self.prefilling:
                    self.prefilling[0].prefill_began = now
        return done

    def next_event_at(self) -> float | None:
        """Return when the next prompt is read or the next answer complete, without events in between."""
        reads, writes = self._rates()
        waits = [job.decode_left / writes for job in self.decoding]
        if self.prefilling:
            waits.append(self.prefilling[0].prefill_left / reads)
        return self.now + max(0.0, min(waits)) if waits else None

    def _rates(self) -> tuple[float, float]:
        """Return the tokens per second of the first prompt's prefill and of each generating slot."""
        step_s = self.step_s + self.token_s * len(self.decoding) if self.decoding else 0.0
        if self.prefilling:
            step_s += UBATCH_TOKENS / self.prefill_tokens_per_s
            return UBATCH_TOKENS / step_s, 1 / step_s
        return 0.0, 1 / step_s if step_s else 0.0

    def _finish_job(self, job: Job) -> None:
        job.ended = self.now
        self.decoding.remove(job)
        place, prompt = self.slot_states[job.slot], job.prompt
        place.job, place.used_at = None, self.now
        place.cached_prompt = Prompt(
            prompt.session, prompt.system, prompt.system_tokens, prompt.tokens + job.answer_tokens
        )

    # --- cache -----------------------------------------------------------------------------

    def _select_slot(self, prompt: Prompt) -> int:
        best, most = None, MIN_SIMILARITY * prompt.tokens
        idle = [number for number, place in enumerate(self.slot_states) if place.job is None]
        for number in idle:
            kept = self.slot_states[number].cached_prompt
            if kept is not None and kept.common_prefix_tokens(prompt) > most:
                best, most = number, kept.common_prefix_tokens(prompt)
        if best is None:
            best = min(idle, key=lambda number: self.slot_states[number].used_at)
            most = 0
        place = self.slot_states[best]
        if place.cached_prompt is not None and most < SAVE_BELOW_SHARE * place.cached_prompt.tokens:
            self._swap_prompt(place, place.cached_prompt, prompt)
        return best

    def _swap_prompt(self, place: SlotState, old: Prompt, prompt: Prompt) -> None:
        """Save the prompt of the slot, and restore the one that matches `prompt` better."""
        if not any(kept.common_prefix_tokens(old) == old.tokens for kept in self.prompt_cache):
            self.prompt_cache = [
                kept for kept in self.prompt_cache if kept.common_prefix_tokens(old) < kept.tokens
            ]
            self.prompt_cache.append(old)
        best, most, share = (
            None,
            old.common_prefix_tokens(prompt),
            old.common_prefix_tokens(prompt) / old.tokens,
        )
        for kept in self.prompt_cache:
            common = kept.common_prefix_tokens(prompt)
            if common > most and common / kept.tokens > max(share, MIN_RESTORE_SHARE):
                best, most, share = kept, common, common / kept.tokens
        if best is not None:
            place.cached_prompt = best
            self.prompt_cache.remove(best)
        while sum(kept.tokens for kept in self.prompt_cache) > self.prompt_cache_tokens:
            self.prompt_cache.pop(0)
