"""How an engine is asked so that it soon notices a client that left.

llama-server looks for a client that left an answer in one piece only after a second in which no request had a result: beside
another's stream it computes the rest for nobody. What it streams it stops at the next token, and, where it was asked to say
how far it is with a prompt, at the next batch of that.
"""

from __future__ import annotations

import re

from llb.gateway.stream.start_event import StartEvent

_PROGRESS_FIELD = b'"prompt_progress":'  # cannot stand inside a JSON string, whose quotes are escaped
_PROGRESS_PATTERN = re.compile(rb',"prompt_progress":\{[^{}]*\}')
# Responses: these stand before the first token, and without progress would come with it.
_CREATED_EVENT = b"event: response.created\n"
_IN_PROGRESS_EVENT = b"event: response.in_progress\n"

_STREAM_WITH_PROGRESS_FIELDS = (
    b',"stream":true,"stream_options":{"include_usage":true},"return_progress":true}'
)
_PROGRESS_REQUEST_FIELD = b',"return_progress":true}'


def request_progress(body: bytes, *, stream: bool) -> bytes:
    """The request `body`, a JSON object with at least one field, as one for a stream (which it is already with `stream`) that
    says how far the prompt is. Of two fields with one name llama-server takes the last, so nothing is parsed."""
    return body.rstrip()[:-1] + (_PROGRESS_REQUEST_FIELD if stream else _STREAM_WITH_PROGRESS_FIELDS)


class ProgressFilter:
    """What an engine streams before the first token; the client is told nothing of it. `opening`: what has to follow."""

    def __init__(self, start_event: StartEvent | None = None) -> None:
        self.is_finished = False
        self.start_event = start_event
        self._held = b""
        self._has_sent_in_progress = False

    def filter_events(self, events: bytes) -> bytes:
        """What of these whole events is passed on: nothing until `over`, then all that is not progress."""
        at = 0
        while (end := events.find(b"\n\n", at) + 2) >= 2:
            event = events[at:end]
            if _PROGRESS_FIELD in event:
                if event.startswith(_IN_PROGRESS_EVENT) and not self._has_sent_in_progress:
                    self._has_sent_in_progress = True
                    self._held += _PROGRESS_PATTERN.sub(b"", event)
            elif event.startswith(_CREATED_EVENT):
                self._held += event
            else:
                break
            at = end
        if at == len(events):
            return b""
        self.is_finished = True
        return self._held + events[at:]

    def flush(self) -> bytes:
        """What was kept back, where the stream ends before its first token."""
        return b"" if self.is_finished else self._held
