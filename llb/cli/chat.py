"""`llb chat ID [PROMPT]`: one answer, or a conversation."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from contextlib import suppress
from typing import Any

from llb.cli import output
from llb.cli.client import Client
from llb.cli.errors import Failure, Refused
from llb.cli.models import client_of, known
from llb.wire import ModelStatus

SILENCE_TIMEOUT_S = 300.0  # a large model may load for minutes before the first word
HELP = "Ctrl-C stops an answer, /clear forgets the conversation, Ctrl-D or /bye ends."
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"

Message = dict[str, str]


def chat(options: argparse.Namespace) -> int:
    """`llb chat`"""
    client = client_of(options)
    _require_ready(client, options.model_id)
    talk = Conversation(client, options.model_id, options.system, options.max_tokens)
    prompt = _prompt(options.prompt)
    if prompt is not None:
        talk.say(prompt)
        return 0
    return _converse(talk)


class Conversation:
    """What was said so far; `say` adds to it."""

    def __init__(self, client: Client, model_id: str, system: str | None, max_tokens: int | None) -> None:
        self._client = client
        self._model_id = model_id
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self._max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        self.messages = list(self._start)

    def say(self, text: str) -> None:
        """Print the answer as it comes. What an interruption cut off is remembered as far as it went."""
        asked = [*self.messages, {"role": "user", "content": text}]
        body: dict[str, Any] = {
            "model": self._model_id,
            "messages": asked,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._max_tokens is not None:
            body["max_tokens"] = self._max_tokens
        printer = Printer()
        try:
            with self._client.stream("/v1/chat/completions", body, SILENCE_TIMEOUT_S) as events:
                for event in events:
                    _raise_error(event)
                    printer.take(event)
        finally:
            printer.end()
            if printer.answer:
                self.messages = [*asked, {"role": "assistant", "content": printer.answer}]
        printer.tell_speed()


class Printer:
    """Writes an answer as it comes. A model's thoughts are dim, and only a person sees them."""

    def __init__(self) -> None:
        self.answer = ""
        self._for_person = output.is_tty(sys.stdout)
        self._thinking = False
        self._first_at: float | None = None
        self._tokens = 0
        self._per_second: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        """One chunk of the stream."""
        usage, timings = event.get("usage"), event.get("timings")
        if isinstance(usage, dict):
            self._tokens = int(usage.get("completion_tokens") or 0)
        if isinstance(timings, dict):
            self._per_second = timings.get("predicted_per_second")
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        delta = choices[0].get("delta") or {}
        thought, words = delta.get("reasoning_content"), delta.get("content")
        if isinstance(thought, str) and thought and self._for_person:
            self._think(True)
            self._write(thought)
        if isinstance(words, str) and words:
            self._think(False)
            self.answer += words
            self._write(words)

    def end(self) -> None:
        self._think(False)
        if self.answer and not self.answer.endswith("\n"):
            self._write("\n")

    def tell_speed(self) -> None:
        if not output.is_tty(sys.stderr) or not self._tokens or self._first_at is None:
            return
        speed = self._per_second or self._tokens / max(1e-3, time.monotonic() - self._first_at)
        output.note(f"{self._tokens} tokens, {speed:.0f} tokens/s")

    def _think(self, thinking: bool) -> None:
        if thinking is not self._thinking:
            self._thinking = thinking
            sys.stdout.write(_DIM if thinking else f"{_PLAIN}\n\n")

    def _write(self, text: str) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
        # To a file go the model's bytes; to a terminal nothing that could command it.
        sys.stdout.write(output.clean(text) if self._for_person else text)
        sys.stdout.flush()


def _converse(talk: Conversation) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401  # gives input() its editing and history
    output.note(HELP)
    while True:
        try:
            text = input(">>> ").strip()
        except EOFError:
            output.say()
            return 0
        except KeyboardInterrupt:
            output.note(f"\n{HELP}")
            continue
        if text == "/bye":
            return 0
        if text == "/clear":
            talk.clear()
        elif text in ("/help", "/?"):
            output.note(HELP)
        elif text:
            try:
                talk.say(text)
            except KeyboardInterrupt:
                output.note("(stopped)")
            except Failure as failure:
                output.note(str(failure))  # the conversation is worth more than one failed question


def _prompt(given: str | None) -> str | None:
    """PROMPT, what was piped in, or both; None for a person at a terminal."""
    piped = _piped()
    parts = [part for part in (given, piped) if part]
    if parts:
        return "\n\n".join(parts)
    if given is None and output.is_tty(sys.stdin):
        return None
    raise Failure("There is nothing to say: give a PROMPT, or pipe one to standard input.")


def _piped() -> str:
    """Standard input if it is a pipe or a file; a service's closed or empty one is never waited for."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return ""
    return sys.stdin.read().strip() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _require_ready(client: Client, model_id: str) -> None:
    """Say at once what no request can change; a key that may not look is left to find out by asking."""
    try:
        item = known(client, model_id)
    except Refused as refused:
        if refused.status == 403:
            return
        raise
    name = item.model.id
    if item.status is ModelStatus.AVAILABLE:
        raise Failure(f"Model '{name}' has not been pulled: 'llb pull {name}' does that.")
    if item.status is ModelStatus.ERROR:
        raise Failure(f"Model '{name}' could not be pulled: {item.error}; 'llb pull {name}' tries again.")
    if item.status is not ModelStatus.READY:
        done = output.per_cent(item.download_progress or 0.0)
        raise Failure(f"Model '{name}' is still downloading ({done} complete): 'llb pull {name}' follows it.")


def _raise_error(event: dict[str, Any]) -> None:
    """An error can come after the first words: then it is an event of the stream."""
    error = event.get("error")
    if isinstance(error, dict):
        raise Failure(str(error.get("message") or "The answer ended with an error."))
