"""Answers of the Playground that are being generated. They continue when the page is closed."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sanic import Request

from llb.api.error_mapping import to_llb_error
from llb.api.inference.handler import InferenceHandler
from llb.base.events import EventBus
from llb.base.tasks import TaskSupervisor
from llb.errors import Conflict, LlbError, RateLimited, ServerBusy
from llb.gateway.stream.keepalive import SSE_KEEPALIVE_INTERVAL_S
from llb.gateway.stream.sse import DataLineReader
from llb.policy.endpoints import dialects
from llb.store.database import Database
from llb.store.tables.playground import conversations, messages
from llb.texts.coded_text import CodedText
from llb.wire import (
    AnswerError,
    AnswerEvent,
    AnswersRunning,
    AnswerStats,
    ConversationMessage,
    Event,
    TextCode,
    text_code_of,
)
from llb.wire.conversations import MAX_NODE_NAME_CHARS
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

MAX_RUNNING_PER_USER, MAX_RUNNING = 8, 128
MAX_ANSWER_CHARS = 2_000_000
# Connections that read an answer: each holds what its client has not read yet.
MAX_FOLLOWERS, MAX_FOLLOWERS_PER_USER = 4, 16
# Size of each part of the text so far; the next part follows when the client has read this one.
INITIAL_EVENT_CHARS = 64 * 1024
# Maximum loss in a crash of the server.
SAVE_INTERVAL_S = 5.0
RETRY_AFTER_S = 5
# Values of `finish_reason` whose answer is not complete. Any other is the end that the model chose.
_ENDED_OF_REASON = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "interrupted",
    "error": "interrupted",
    "abort": "interrupted",
}

AnswerKey = tuple[str, str, str]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    predicted_per_second: float | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: dict[str, Any] | None = None


class RunningAnswer:
    """Sink of one answer. It keeps the text, which any number of followers read at their own pace."""

    def __init__(self, key: AnswerKey, message: ConversationMessage) -> None:
        self.key = key
        self.task: asyncio.Task[None] | None = None
        # Complete once the answer has ended.
        self.message = message
        self.has_ended = False
        self.is_saved = True
        self._initial = message
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self._chars = 0
        self._tokens = 0
        self._reader = DataLineReader()
        self._changed = asyncio.Event()
        self._started_at = time.monotonic()
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._is_ending = False
        self._ended: str | None = None
        self._error: AnswerError | None = None
        self._usage: _Usage | None = None
        self._timings: _Timings | None = None
        self._node_name: str | None = None

    # --- sink ---------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether there is text, so that no other node may answer any more."""
        return self._tokens > 0

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._node_name = node_name[:MAX_NODE_NAME_CHARS]

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        """Take bytes of the stream, and wake the followers."""
        for value in self._reader.feed(data):
            try:
                chunk = msgspec.json.decode(value, type=_Chunk)
            except DECODE_ERRORS:
                # `[DONE]`
                continue
            self._take(chunk)
        self._notify()

    def _take(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            self._error = _answer_error(chunk.error)
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        for choice in chunk.choices[:1]:
            text, reasoning = choice.delta.content or "", choice.delta.reasoning_content or ""
            if choice.finish_reason:
                self._ended = _ENDED_OF_REASON.get(choice.finish_reason, "stop")
            if text or reasoning:
                self._add(text, reasoning)

    def _add(self, text: str, reasoning: str) -> None:
        self._texts.append(text)
        self._reasonings.append(reasoning)
        self._chars += len(text) + len(reasoning)
        self._tokens += 1
        self.is_saved = False
        self._last_at = time.monotonic()
        self._first_at = self._first_at or self._last_at
        if self._chars > MAX_ANSWER_CHARS:
            self.stop("length")

    # --- end ----------------------------------------------------------------------------------------

    def stop(self, ended: str = "stopped") -> None:
        """End the answer early."""
        if self.task is not None and not self._is_ending:
            self._is_ending = True
            self._ended = self._ended or ended
            self.task.cancel()

    def finish(self, error: LlbError | None) -> ConversationMessage:
        """Return the whole message; the followers get it from `publish_end`."""
        self._is_ending = True
        if error is not None and self._ended is None:
            retry = {} if error.retry_after_s is None else {"retry_after_s": error.retry_after_s}
            self._error = _answer_error(
                {
                    "code": error.code,
                    "message": error.message,
                    "message_code": text_code_of(error.text),
                    **error.details,
                    **retry,
                }
            )
        ended = "interrupted" if self._error is not None else self._ended or "interrupted"
        return msgspec.structs.replace(self.snapshot(), ended=ended, error=self._error, stats=self._stats())

    def snapshot(self) -> ConversationMessage:
        """Return the message as far as it is generated."""
        return msgspec.structs.replace(
            self._initial,
            text=self._initial.text + "".join(self._texts),
            reasoning=self._initial.reasoning + "".join(self._reasonings),
        )

    def publish_end(self, message: ConversationMessage) -> None:
        """End the streams of the followers with `message`."""
        self.message = message
        self.has_ended = True
        self._notify()

    def _stats(self) -> AnswerStats:
        usage = self._usage or _Usage()
        details = usage.prompt_tokens_details
        return AnswerStats(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=None if details is None else details.cached_tokens,
            completion_tokens=usage.completion_tokens or self._tokens or None,
            tokens_per_second=self._tokens_per_second(),
            first_token_ms=(None if self._first_at is None else (self._first_at - self._started_at) * 1000),
            total_ms=(time.monotonic() - self._started_at) * 1000,
            node=self._node_name,
        )

    def _tokens_per_second(self) -> float | None:
        """Return the engine's rate, else the measured one."""
        reported = None if self._timings is None else self._timings.predicted_per_second
        # llama.cpp divides by a duration that can be zero for an answer of one token.
        if reported is not None and 0 < reported < 1e6:
            return reported
        if self._first_at is None or self._last_at is None or self._last_at <= self._first_at:
            return None
        return (self._tokens - 1) / (self._last_at - self._first_at)

    # --- followers ----------------------------------------------------------------------------------

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> AsyncIterator[AnswerEvent | None]:
        """Yield the answer from its beginning to its end; None when nothing has come for a while.

        A slow reader gets more text with each event.
        """
        text, reasoning = self._initial.text, self._initial.reasoning
        for start in range(0, max(len(text), len(reasoning)), INITIAL_EVENT_CHARS):
            end = start + INITIAL_EVENT_CHARS
            yield AnswerEvent(text=text[start:end], reasoning=reasoning[start:end])
        read = 0
        while True:
            changed = self._changed
            if read < len(self._texts):
                texts, reasonings = self._texts[read:], self._reasonings[read:]
                read += len(texts)
                assert self._first_at is not None  # noqa: S101  # there is text
                yield AnswerEvent(
                    text="".join(texts),
                    reasoning="".join(reasonings),
                    tokens=read,
                    elapsed_ms=((self._last_at or self._first_at) - self._first_at) * 1000,
                )
                continue
            if self.has_ended:
                yield AnswerEvent(message=self.message)
                return
            try:
                async with asyncio.timeout(SSE_KEEPALIVE_INTERVAL_S):
                    await changed.wait()
            except TimeoutError:
                yield None


def _answer_error(fields: dict[str, Any]) -> AnswerError:
    """Return an error of the API as part of a message; unknown fields are left out."""
    known = {
        name: fields[name]
        for name in ("prompt_tokens", "context_length", "retry_after_s")
        if type(fields.get(name)) is int
    }
    return AnswerError(
        code=str(fields.get("code") or "engine_failed")[:64],
        message=str(fields.get("message") or "")[:2000],
        message_code=_message_code(fields.get("message_code")),
        **known,
    )


def _message_code(value: Any) -> TextCode | None:
    """Return the code of a message, None of an error of another program."""
    if isinstance(value, TextCode):
        return value
    try:
        return msgspec.convert(value, TextCode)
    except msgspec.ValidationError:
        return None


class RunningAnswers:
    """All answers that are being generated, by user, conversation and id."""

    def __init__(self, db: Database, inference: InferenceHandler, event_bus: EventBus[Event]) -> None:
        self._db = db
        self._inference = inference
        self._event_bus = event_bus
        self._running: dict[AnswerKey, RunningAnswer] = {}
        self._reserved: set[AnswerKey] = set()
        self._followers: Counter[AnswerKey] = Counter()
        self._tasks = TaskSupervisor("answers")

    def start(self) -> None:
        """Start to save the progress of answers."""
        self._tasks.spawn(self._save_forever(), "save")

    async def close(self) -> None:
        """End all answers and save what there is of them; idempotent."""
        await self._tasks.close()

    def running_of(self, user_id: str) -> list[tuple[str, str]]:
        """Return (conversation id, answer id) of the user's answers."""
        return [(conversation, answer) for user, conversation, answer in self._running if user == user_id]

    def event_of(self, user_id: str) -> AnswersRunning:
        return AnswersRunning(user_id=user_id, count=len(self.running_of(user_id)))

    def get(self, key: AnswerKey) -> RunningAnswer | None:
        return self._running.get(key)

    def stop(self, user_id: str, conversation_id: str, answer_id: str | None = None) -> bool:
        """Stop one answer, or all of a conversation; returns whether there was one."""
        stopped = [
            answer
            for (user, conversation, answer_of), answer in self._running.items()
            if (user, conversation) == (user_id, conversation_id) and answer_id in (None, answer_of)
        ]
        for answer in stopped:
            answer.stop()
        return bool(stopped)

    @contextmanager
    def reserved(self, key: AnswerKey) -> Iterator[None]:
        """Keep room for an answer in the block, which may `begin` it.

        Raises `Conflict` for one that is being generated, `RateLimited` and `ServerBusy` without room.
        """
        keys = self._running.keys() | self._reserved
        if key in keys:
            raise Conflict(CodedText("answer_running", "This answer is being generated already"))
        if sum(user_id == key[0] for user_id, _, _ in keys) >= MAX_RUNNING_PER_USER:
            raise RateLimited(
                CodedText(
                    "answers_running",
                    "{number} answers are being generated already: wait, or stop one",
                    number=MAX_RUNNING_PER_USER,
                ),
                retry_after_s=RETRY_AFTER_S,
            )
        if len(keys) >= MAX_RUNNING:
            raise ServerBusy("Too many answers are being generated; try again in a moment")
        self._reserved.add(key)
        try:
            yield
        finally:
            self._reserved.discard(key)

    @contextmanager
    def followed(self, key: AnswerKey) -> Iterator[None]:
        """Count a connection that reads an answer in the block. Raises `RateLimited` beyond the limits."""
        of_user = sum(number for (user_id, _, _), number in self._followers.items() if user_id == key[0])
        if self._followers[key] >= MAX_FOLLOWERS or of_user >= MAX_FOLLOWERS_PER_USER:
            raise RateLimited(
                CodedText(
                    "answer_followers",
                    "At most {number} connections may follow an answer, and {total} all answers "
                    "of a user: close one",
                    number=MAX_FOLLOWERS,
                    total=MAX_FOLLOWERS_PER_USER,
                ),
                retry_after_s=RETRY_AFTER_S,
            )
        self._followers[key] += 1
        try:
            yield
        finally:
            self._followers[key] -= 1
            if not self._followers[key]:
                del self._followers[key]

    def begin(
        self,
        key: AnswerKey,
        message: ConversationMessage,
        request: Request,
        body: bytes,
        release: Callable[[], None],
    ) -> RunningAnswer:
        """Generate the answer to `body` for the sender of `request`; `release` is called at the end."""
        answer = RunningAnswer(key, message)
        self._running[key] = answer
        self._event_bus.publish(self.event_of(key[0]))
        answer.task = self._tasks.spawn(self._run(answer, request, body, release), "answer")
        return answer

    async def _run(
        self, answer: RunningAnswer, request: Request, body: bytes, release: Callable[[], None]
    ) -> None:
        error: LlbError | None = None
        try:
            await self._inference.answer_into(request, answer, dialects.CHAT, body)
        except asyncio.CancelledError:
            # Stopped by the user, or with the server.
            pass
        except Exception as failure:
            # No one awaits this task: its followers learn of any failure from the message.
            error = to_llb_error(failure)
            if error.code == "internal_error":
                log.exception("an answer of the Playground failed")
        finally:
            release()
        message = answer.finish(error)
        try:
            await self._save_end(answer, message)
        except sqlite3.Error as failure:
            log.warning("could not save an answer of the Playground: %s", failure)
            unsaved = AnswerError(code="database_unavailable", message=to_llb_error(failure).message)
            message = msgspec.structs.replace(message, ended="interrupted", error=unsaved)
        finally:
            self._running.pop(answer.key, None)
            self._event_bus.publish(self.event_of(answer.key[0]))
            answer.publish_end(message)

    async def _save(self, answer: RunningAnswer, message: ConversationMessage) -> None:
        user_id, conversation_id, _ = answer.key
        answer.is_saved = True
        async with self._db.write() as tx:
            # It may have been deleted meanwhile.
            if await messages.update_answer(tx, user_id, conversation_id, message):
                await conversations.touch(tx, user_id, conversation_id, self._db.clock.now())

    async def _save_end(self, answer: RunningAnswer, message: ConversationMessage) -> None:
        try:
            await self._save(answer, message)
        except asyncio.CancelledError:
            # The server stops, which cancels once.
            await self._save(answer, message)

    async def _save_forever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            for answer in list(self._running.values()):
                if answer.is_saved:
                    continue
                try:
                    await self._save(answer, answer.snapshot())
                except sqlite3.Error as failure:
                    log.warning("could not save an answer of the Playground: %s", failure)
