"""`llb chat ID [PROMPT]`: a single answer, or a conversation."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from contextlib import suppress
from typing import Any

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import ApiError, CommandError
from llb.cli.models import require_model
from llb.cli.options import client_of
from llb.wire import ModelStatus

# A large model may load for minutes before the first token.
READ_TIMEOUT_S = 300.0
CHAT_HELP = "Ctrl-C stops an answer, /clear starts a new conversation, Ctrl-D or /bye exits."
_ANSI_DIM, _ANSI_RESET = "\x1b[2m", "\x1b[0m"

Message = dict[str, str]


def chat(options: argparse.Namespace) -> int:
    """`llb chat`"""
    client = client_of(options)
    _require_model_ready(client, options.model_id)
    conversation = Conversation(client, options.model_id, options.system, options.max_tokens)
    prompt = _read_prompt(options.prompt)
    if prompt is not None:
        conversation.send(prompt)
        return 0
    return _run_conversation(conversation)


class Conversation:
    """Messages of a conversation with one model."""

    def __init__(self, client: ApiClient, model_id: str, system: str | None, max_tokens: int | None) -> None:
        self._client = client
        self._model_id = model_id
        self._initial_messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        self.messages = list(self._initial_messages)

    def send(self, text: str) -> None:
        """Send a message and print the answer as it arrives. An interrupted answer is kept too."""
        messages = [*self.messages, {"role": "user", "content": text}]
        body: dict[str, Any] = {
            "model": self._model_id,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._max_tokens is not None:
            body["max_tokens"] = self._max_tokens
        printer = AnswerPrinter()
        try:
            with self._client.stream_events("/v1/chat/completions", body, READ_TIMEOUT_S) as events:
                for event in events:
                    _raise_if_error_event(event)
                    printer.print_chunk(event)
        finally:
            printer.finish()
            if printer.answer:
                self.messages = [*messages, {"role": "assistant", "content": printer.answer}]
        printer.print_throughput()


class AnswerPrinter:
    """Prints a streamed answer. The reasoning is dim, and printed to a terminal only."""

    def __init__(self) -> None:
        self.answer = ""
        self._is_terminal = output.is_tty(sys.stdout)
        self._is_thinking = False
        self._first_token_at: float | None = None
        self._completion_tokens = 0
        self._tokens_per_second: float | None = None

    def print_chunk(self, chunk: dict[str, Any]) -> None:
        """Print one chunk of the stream."""
        usage, timings = chunk.get("usage"), chunk.get("timings")
        if isinstance(usage, dict):
            self._completion_tokens = int(usage.get("completion_tokens") or 0)
        if isinstance(timings, dict):
            self._tokens_per_second = timings.get("predicted_per_second")
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        delta = choices[0].get("delta") or {}
        reasoning, content = delta.get("reasoning_content"), delta.get("content")
        if isinstance(reasoning, str) and reasoning and self._is_terminal:
            self._set_thinking(True)
            self._write(reasoning)
        if isinstance(content, str) and content:
            self._set_thinking(False)
            self.answer += content
            self._write(content)

    def finish(self) -> None:
        self._set_thinking(False)
        if self.answer and not self.answer.endswith("\n"):
            self._write("\n")

    def print_throughput(self) -> None:
        if not output.is_tty(sys.stderr) or not self._completion_tokens or self._first_token_at is None:
            return
        speed = self._tokens_per_second or self._completion_tokens / max(
            1e-3, time.monotonic() - self._first_token_at
        )
        output.print_note(f"{self._completion_tokens} tokens, {speed:.0f} tokens/s")

    def _set_thinking(self, thinking: bool) -> None:
        if thinking is not self._is_thinking:
            self._is_thinking = thinking
            sys.stdout.write(_ANSI_DIM if thinking else f"{_ANSI_RESET}\n\n")

    def _write(self, text: str) -> None:
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        # A file gets the text of the model unchanged; a terminal must not get control characters.
        sys.stdout.write(output.strip_control_chars(text) if self._is_terminal else text)
        sys.stdout.flush()


def _run_conversation(conversation: Conversation) -> int:
    with suppress(ImportError):
        # Importing it gives input() line editing and history.
        import readline  # noqa: F401
    output.print_note(CHAT_HELP)
    while True:
        try:
            text = input(">>> ").strip()
        except EOFError:
            output.print_line()
            return 0
        except KeyboardInterrupt:
            output.print_note(f"\n{CHAT_HELP}")
            continue
        if text == "/bye":
            return 0
        if text == "/clear":
            conversation.clear()
        elif text in ("/help", "/?"):
            output.print_note(CHAT_HELP)
        elif text:
            try:
                conversation.send(text)
            except KeyboardInterrupt:
                output.print_note("(stopped)")
            except CommandError as failure:
                # A failed request does not end the conversation.
                output.print_note(str(failure))


def _read_prompt(given: str | None) -> str | None:
    """PROMPT, standard input, or both; None at a terminal. Raises `CommandError` if there is no text."""
    piped = _read_piped_input()
    parts = [part for part in (given, piped) if part]
    if parts:
        return "\n\n".join(parts)
    if given is None and output.is_tty(sys.stdin):
        return None
    raise CommandError("There is no prompt: give PROMPT, or pipe one to standard input.")


def _read_piped_input() -> str:
    """Standard input if it is a pipe or a file. Never waits for the closed or empty one of a service."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return ""
    return sys.stdin.read().strip() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _require_model_ready(client: ApiClient, model_id: str) -> None:
    """Raise `CommandError` if the model cannot answer. Skipped for a key that may not read the models."""
    try:
        item = require_model(client, model_id)
    except ApiError as error:
        if error.status == 403:
            return
        raise
    name = item.model.id
    if item.status is ModelStatus.AVAILABLE:
        raise CommandError(f"Model '{name}' has not been pulled: 'llb pull {name}' does that.")
    if item.status is ModelStatus.ERROR:
        raise CommandError(
            f"Model '{name}' could not be pulled: {item.error}; try again with 'llb pull {name}'."
        )
    if item.status is not ModelStatus.READY:
        done = output.format_percent(item.download_progress or 0.0)
        raise CommandError(
            f"Model '{name}' is still downloading ({done} complete): 'llb pull {name}' follows it."
        )


def _raise_if_error_event(event: dict[str, Any]) -> None:
    """Raise `CommandError` for an error event, which the server sends after the answer has started."""
    error = event.get("error")
    if isinstance(error, dict):
        raise CommandError(str(error.get("message") or "The answer ended with an error."))
