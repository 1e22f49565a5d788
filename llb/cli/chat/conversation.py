"""Conversation of `llb chat`: messages, parameters, and the printer of its answers."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
import time
from pathlib import Path
from typing import Any

from llb.cli import output
from llb.cli.chat.wrapping import WordWrapper
from llb.cli.client import ApiClient
from llb.cli.errors import CommandError

# A large model may load for minutes before the first token.
READ_TIMEOUT_S = 300.0
# Larger images are refused by the server, because no model uses them.
MAX_IMAGE_BYTES = 20_000_000
_ANSI_DIM, _ANSI_RESET = "\x1b[2m", "\x1b[0m"

Message = dict[str, Any]


class Conversation:
    """Messages of a conversation with one model, and the parameters of its requests."""

    def __init__(
        self, client: ApiClient, model_id: str, system: str | None, parameters: dict[str, Any]
    ) -> None:
        """`parameters` are fields of the chat completions API: `temperature`, `seed`, `max_tokens`."""
        self._client = client
        self.model_id = model_id
        self.system = system
        self.parameters = parameters
        self.images: list[str] = []
        self.messages: list[Message] = []

    def clear(self) -> None:
        """Start a new conversation; system prompt and parameters stay."""
        self.messages = []

    def attach_image(self, path: Path) -> None:
        """Send the image with the next message. Raises `CommandError`."""
        self.images.append(_image_url(path))

    def send(self, text: str) -> None:
        """Send a message and print the answer as it arrives. An interrupted answer is kept too."""
        message = self._new_message(text)
        body = {**self._body(message), "stream": True, "stream_options": {"include_usage": True}}
        printer = AnswerPrinter()
        try:
            with self._client.stream_events("/v1/chat/completions", body, READ_TIMEOUT_S) as events:
                for event in events:
                    _raise_if_error_event(event)
                    printer.print_chunk(event)
        finally:
            printer.finish()
            if printer.answer:
                self.messages += [message, {"role": "assistant", "content": printer.answer}]
                self.images = []
        printer.print_throughput()

    def request(self, text: str) -> dict[str, Any]:
        """Send a message; returns the response of the API."""
        return self._client.post(
            "/v1/chat/completions", self._body(self._new_message(text)), dict[str, Any], READ_TIMEOUT_S
        )

    def save(self, path: Path) -> None:
        """Write the conversation to a file. Raises `CommandError`."""
        saved = {
            "model": self.model_id,
            "system": self.system,
            "parameters": self.parameters,
            "messages": self.messages,
        }
        try:
            path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from None

    def load(self, path: Path) -> None:
        """Continue the conversation in a file that `save` wrote. Raises `CommandError`."""
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError:
            saved = None
        messages = saved.get("messages") if isinstance(saved, dict) else None
        if not isinstance(messages, list) or not all(
            isinstance(message, dict) and {"role", "content"} <= message.keys() for message in messages
        ):
            raise CommandError(f"{path} is not a conversation that /save wrote.")
        self.messages = messages
        self.system = saved.get("system") or None
        parameters = saved.get("parameters")
        self.parameters = dict(parameters) if isinstance(parameters, dict) else {}

    def _new_message(self, text: str) -> Message:
        if not self.images:
            return {"role": "user", "content": text}
        images = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
        return {"role": "user", "content": [{"type": "text", "text": text}, *images]}

    def _body(self, message: Message) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model_id,
            "messages": [*system, *self.messages, message],
            **self.parameters,
        }


class AnswerPrinter:
    """Prints a streamed answer. The reasoning is dim, and printed to a terminal only."""

    def __init__(self) -> None:
        self.answer = ""
        self._is_terminal = output.is_tty(sys.stdout)
        self._wrapper = WordWrapper(sys.stdout.write)
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
        """Write what is held back, and end the line."""
        self._set_thinking(False)
        self._wrapper.flush()
        if self.answer and not self.answer.endswith("\n"):
            self._write("\n")
        sys.stdout.flush()

    def print_throughput(self) -> None:
        if not output.is_tty(sys.stderr) or not self._completion_tokens or self._first_token_at is None:
            return
        speed = self._tokens_per_second or self._completion_tokens / max(
            1e-3, time.monotonic() - self._first_token_at
        )
        output.print_note(f"{self._completion_tokens} tokens, {speed:.0f} tokens/s")

    def _set_thinking(self, thinking: bool) -> None:
        if thinking is self._is_thinking:
            return
        self._is_thinking = thinking
        self._wrapper.flush()
        if thinking:
            sys.stdout.write(_ANSI_DIM)
        else:
            sys.stdout.write(_ANSI_RESET)
            self._wrapper.feed("\n\n")

    def _write(self, text: str) -> None:
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        if self._is_terminal:
            # A terminal must not get control characters from a model.
            self._wrapper.feed(output.strip_control_chars(text))
        else:
            sys.stdout.write(text)
        sys.stdout.flush()


def _image_url(path: Path) -> str:
    """The image as a data URL. Raises `CommandError`."""
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise CommandError(f"{path} is not an image, by its name.")
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise CommandError(f"{path} is larger than {output.format_size(MAX_IMAGE_BYTES)}.")
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _raise_if_error_event(event: dict[str, Any]) -> None:
    """Raise `CommandError` for an error event, which the server sends after the answer has started."""
    error = event.get("error")
    if isinstance(error, dict):
        raise CommandError(str(error.get("message") or "The answer ended with an error."))
