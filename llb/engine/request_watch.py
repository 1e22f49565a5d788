"""Watch over the requests of an engine: whether it makes progress, and which to blame if it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llb.engine import watch_policy
from llb.engine.diagnosis import FailureDiagnosis, FailureKind
from llb.engine.process import EngineProcess
from llb.engine.watch_policy import Blame, EngineSpeed, RequestProgress
from llb.texts.coded_text import CodedText
from llb.wire import EngineState

# Workers in a row that failed under requests without having answered one: then the cause is the engine.
MAX_LIVES_WITHOUT_ANSWER = 4


class AnswerCounter(Protocol):
    """Part of an engine's answer that the watch reads."""

    @property
    def total_bytes(self) -> int: ...

    @property
    def is_buffer_full(self) -> bool: ...


class WatchedRequest:
    """Request whose progress is watched, and which may be blamed."""

    __slots__ = ("_answer", "_seen_bytes", "blame", "progress")

    def __init__(self) -> None:
        # Part of the request in the failure of the engine; None while it has not failed.
        self.blame: Blame | None = None
        # None until something was sent; a lease may only keep the engine loaded.
        self.progress: RequestProgress | None = None
        self._answer: AnswerCounter | None = None
        self._seen_bytes = 0

    def follow_answer(self, answer: AnswerCounter) -> None:
        """Use the bytes of `answer` as the progress of the request."""
        self._answer, self._seen_bytes = answer, 0

    def sample_progress(self, now: float) -> None:
        """Record whether bytes have come since the last sample."""
        progress, answer = self.progress, self._answer
        if progress is None or answer is None:
            return
        is_paused = answer.is_buffer_full
        if is_paused is not progress.is_paused:
            # Rarely: setting a field of a Struct takes three times as long as reading it.
            progress.is_paused = is_paused
        if answer.total_bytes > self._seen_bytes:
            self._seen_bytes, progress.last_byte_at = answer.total_bytes, now


class RequestWatch:
    """Requests of the present worker of an engine, and its progress on them."""

    def __init__(self, process: EngineProcess, clock: Callable[[], float]) -> None:
        self._process = process
        self._clock = clock
        # In the order of their begin.
        self._requests: dict[WatchedRequest, None] = {}
        self._last_progress_at = 0.0
        # When the worker was first found to be silent, and its processor time then.
        self._silent_since: tuple[float, float] | None = None
        # Time of the last byte before a hang, for which the worker is being killed.
        self._hung_at: float | None = None
        self._has_answered = False
        self._lives_without_answer = 0
        # Time since which the worker has had no request, and its processor time then.
        self._idle_since: tuple[float, float] | None = None

    # --- requests and the worker ---------------------------------------------------------------------

    def add(self, request: WatchedRequest) -> None:
        """Add a request, whose progress counts from `begin`."""
        self._requests[request] = None
        # The request may end before the next sample; its processor time must not count as work without a
        # request.
        self._idle_since = None

    def begin(self, request: WatchedRequest, prompt_tokens: int, speed: EngineSpeed) -> None:
        """Begin to watch the progress of a request."""
        now = self._clock()
        for other in self._requests:
            if other.progress is not None:
                break
        else:
            # The worker was idle until now.
            self._record_progress(now)
        request.progress = RequestProgress(now, prompt_tokens, speed)

    def remove(self, request: WatchedRequest, now: float) -> None:
        """Remove a request that has ended; without effect if its worker has ended before."""
        if request not in self._requests:
            return
        del self._requests[request]
        progress = request.progress
        if progress is not None:
            request.sample_progress(now)
            if progress.last_byte_at is not None:
                # As `_record_progress`, if it is the last one.
                if progress.last_byte_at > self._last_progress_at:
                    self._last_progress_at = progress.last_byte_at
                self._silent_since = None
                self._has_answered, self._lives_without_answer = True, 0

    def on_worker_ready(self) -> None:
        """Begin with a new worker, which has not answered yet."""
        self._has_answered, self._idle_since = False, None

    def on_worker_ended(self) -> None:
        """Forget the worker and its requests."""
        self._hung_at = None
        self._requests.clear()

    def reset_failures(self) -> None:
        """Forget the workers that failed without an answer."""
        self._lives_without_answer = 0

    # --- progress ------------------------------------------------------------------------------------

    def restart_silence(self) -> None:
        """Set the time of the last progress to now, because this process itself was stopped."""
        now = self._clock()
        self._record_progress(now)
        self._idle_since = None
        for progress in self._started_requests():
            progress.began_at = now
            if progress.last_byte_at is not None:
                progress.last_byte_at = now

    def check_progress(self) -> FailureDiagnosis | None:
        """Sample the progress of the running requests; returns why the engine must be killed, or None."""
        now = self._clock()
        for request in self._requests:
            request.sample_progress(now)
        requests = self._started_requests()
        if any(progress.last_byte_at == now for progress in requests):
            self._record_progress(now)
        if not requests or self._last_progress_at == now:
            return None
        cpu_s = self._process.cpu_s()
        since, cpu_s_then = self._silent_since = self._silent_since or (now, cpu_s)
        silent_s = now - self._last_progress_at
        if not watch_policy.is_hanging(
            requests,
            now,
            silent_s=silent_s,
            allowed_s=self._allowed_silence_s(requests),
            computing_share=(cpu_s - cpu_s_then) / max(now - since, 0.001),
        ):
            return None
        self._hung_at = self._last_progress_at
        return FailureDiagnosis(
            FailureKind.TIMEOUT,
            CodedText(
                "engine_hung",
                "the engine was busy for {seconds} s without any progress",
                seconds=round(silent_s),
            ),
        )

    def is_computing_without_requests(self) -> bool:
        """Whether the engine has long been computing without a request, for a client that has left."""
        if self._process.state is not EngineState.READY:
            self._idle_since = None
            return False
        now = self._clock()
        if self._idle_since is not None and now - self._idle_since[0] < watch_policy.IDLE_COMPUTING_S:
            return False
        cpu_s = self._process.cpu_s()
        since, cpu_s_then = self._idle_since or (now, cpu_s)
        self._idle_since = (now, cpu_s)
        return now > since and cpu_s - cpu_s_then > watch_policy.MIN_COMPUTING_SHARE * (now - since)

    def _allowed_silence_s(self, requests: list[RequestProgress]) -> float:
        spec = self._process.spec
        if spec is None:
            return watch_policy.MIN_SILENCE_WITH_PROJECTOR_S
        return watch_policy.allowed_silence_s(
            requests,
            batch_tokens=spec.batch_tokens,
            slots=spec.slots,
            has_projector=spec.projector_path is not None,
        )

    def _started_requests(self) -> list[RequestProgress]:
        return [request.progress for request in self._requests if request.progress is not None]

    def _record_progress(self, now: float) -> None:
        self._last_progress_at, self._silent_since = now, None

    # --- blame ---------------------------------------------------------------------------------------

    def blame_stuck_request(self) -> bool:
        """Blame a request that gets no bytes while others do; returns whether there is one."""
        requests = self._started_requests()
        stuck = watch_policy.find_stuck(requests, self._clock(), allowed_s=self._allowed_silence_s(requests))
        if stuck is None:
            return False
        for request in self._requests:
            request.blame = Blame.CAUSE if request.progress is stuck else Blame.NONE
        return True

    def blame_requests(self, failure: FailureDiagnosis, now: float) -> bool:
        """Set the blame of every running request; returns whether they explain the failure."""
        requests = self._started_requests()
        for request in self._requests:
            request.blame = Blame.NONE
        if not requests:
            return False
        if not self._has_answered:
            self._lives_without_answer += 1
        if self._lives_without_answer >= MAX_LIVES_WITHOUT_ANSWER:
            return False
        if self._hung_at is not None:
            suspects = watch_policy.find_suspects(requests, self._hung_at, is_exact=False)
        elif failure.kind in (FailureKind.CRASHED, FailureKind.MEMORY):
            for request in self._requests:
                request.sample_progress(now)
            suspects = watch_policy.find_suspects(requests, now, is_exact=True)
        else:
            # The worker was killed by something else, or its HTTP threads are occupied.
            suspects = []
        blame = Blame.CAUSE if len(suspects) == 1 else Blame.SUSPECT
        for request in self._requests:
            if request.progress in suspects:
                request.blame = blame
        return True
