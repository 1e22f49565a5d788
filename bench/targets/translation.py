"""Processor time of a chunk that llb translates, compared with one that passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from llb.gateway.translation.answer_stream import AnswerStream
from llb.gateway.translation.chat_answer import ChatToMessagesStream
from llb.gateway.translation.messages_answer import MessagesToChatStream
from llb.gateway.translation.passthrough import ChatPassStream
from tests.providers.brain import Answer
from tests.providers.dialects import anthropic, openai
from tests.providers.http import sse

CHUNKS = 1000


def chat_stream(chunks: int) -> list[bytes]:
    answer = Answer(pieces=[f"word{number} " for number in range(chunks)], completion_tokens=chunks)
    events = openai.chat_chunks("m", answer, openai.Style(), include_usage=True)
    return [*map(sse, events), sse("[DONE]")]


def message_stream(chunks: int) -> list[bytes]:
    answer = Answer(pieces=[f"word{number} " for number in range(chunks)], completion_tokens=chunks)
    return [sse(event, event["type"]) for event in anthropic.message_events("m", answer)]


def measure_chunk_us(make_stream: Callable[[], AnswerStream], pieces: Sequence[bytes], rounds: int) -> float:
    """Return the least processor time of a chunk over the rounds, in microseconds."""
    best_s = float("inf")
    for _ in range(rounds):
        stream = make_stream()
        began = time.process_time()
        written = sum(len(stream.feed(piece)) for piece in pieces) + len(stream.finish())
        best_s = min(best_s, time.process_time() - began)
        assert written > len(pieces)
    return best_s / len(pieces) * 1e6


def measure_translation_us(rounds: int, chunks: int = CHUNKS) -> dict[str, float]:
    """Return microseconds a chunk: Messages as a chat, a chat as Messages, and a chat that is checked."""
    chat, messages = chat_stream(chunks), message_stream(chunks)
    return {
        "messages_to_chat": measure_chunk_us(
            lambda: MessagesToChatStream(model="m", created=1, include_usage=True, tool_names={}),
            messages,
            rounds,
        ),
        "chat_to_messages": measure_chunk_us(
            lambda: ChatToMessagesStream(model="m", message_id="msg_1", tool_names={}, stop_sequences=()),
            chat,
            rounds,
        ),
        "chat_checked": measure_chunk_us(lambda: ChatPassStream(model="m", include_usage=True), chat, rounds),
    }
