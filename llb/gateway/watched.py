"""How an engine is asked so that it soon notices a client that left.

llama-server looks for a client that left an answer in one piece only after a second in which no request had a result: beside
another's stream it computes the rest for nobody. What it streams it stops at the next token, and, where it was asked to say
how far it is with a prompt, at the next batch of that.
"""

from __future__ import annotations

import re

from llb.gateway.opening import Opening

_PROGRESS = b'"prompt_progress":'  # cannot stand inside a JSON string, whose quotes are escaped
_ITS_VALUE = re.compile(rb',"prompt_progress":\{[^{}]*\}')
# Responses: these stand before the first token, and without progress would come with it.
_CREATED = b"event: response.created\n"
_IN_PROGRESS = b"event: response.in_progress\n"

_AS_STREAM = b',"stream":true,"stream_options":{"include_usage":true},"return_progress":true}'
_WITH_PROGRESS = b',"return_progress":true}'


def watched(body: bytes, *, stream: bool) -> bytes:
    """The request `body`, a JSON object with at least one field, as one for a stream (which it is already with `stream`) that
    says how far the prompt is. Of two fields with one name llama-server takes the last, so nothing is parsed."""
    return body.rstrip()[:-1] + (_WITH_PROGRESS if stream else _AS_STREAM)


class Prelude:
    """What an engine streams before the first token; the client is told nothing of it. `opening`: what has to follow."""

    def __init__(self, opening: Opening | None = None) -> None:
        self.over = False
        self.opening = opening
        self._held = b""
        self._told = False

    def take(self, events: bytes) -> bytes:
        """What of these whole events is passed on: nothing until `over`, then all that is not progress."""
        at = 0
        while (end := events.find(b"\n\n", at) + 2) >= 2:
            event = events[at:end]
            if _PROGRESS in event:
                if event.startswith(_IN_PROGRESS) and not self._told:
                    self._told = True
                    self._held += _ITS_VALUE.sub(b"", event)
            elif event.startswith(_CREATED):
                self._held += event
            else:
                break
            at = end
        if at == len(events):
            return b""
        self.over = True
        return self._held + events[at:]

    def rest(self) -> bytes:
        """What was kept back, where the stream ends before its first token."""
        return b"" if self.over else self._held
