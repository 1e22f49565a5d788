"""Disconnect detection: requests are sent so that the engine soon notices a client that left.

For a document, llama-server checks for a client that left only after a second without a result of any
request. During another request's stream it would compute the rest for no one. A stream stops at the next
token, and a stream that reports the progress of its prompt at the next batch of the prompt.
"""

from __future__ import annotations

import re

from llb.gateway.inference_call import InferenceCall
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.start_event import StartEvent
from llb.policy.routing import RequestEstimate

# A document that may take longer than this is requested as a stream, so that llama-server notices a client
# that left at the next token.
AGGREGATE_ABOVE_S = 0.5

# Cannot occur inside a JSON string, whose quotes are escaped.
_PROGRESS_FIELD = b'"prompt_progress":'
_PROGRESS_PATTERN = re.compile(rb',"prompt_progress":\{[^{}]*\}')
# Responses: these events precede the first token. Without progress they would arrive together with it.
_CREATED_EVENT = b"event: response.created\n"
_IN_PROGRESS_EVENT = b"event: response.in_progress\n"

_STREAM_WITH_PROGRESS_FIELDS = (
    b',"stream":true,"stream_options":{"include_usage":true},"return_progress":true}'
)
_PROGRESS_REQUEST_FIELD = b',"return_progress":true}'


def needs_progress(
    call: InferenceCall, estimate: RequestEstimate, performance: PerformanceModel, node_id: str
) -> bool:
    """Return whether to ask the engine for progress, which makes no difference for a short answer."""
    if not call.operation.generates_text:
        return False
    if call.stream:
        # A client that asks for the progress gets it unfiltered.
        return not call.head.return_progress
    max_tokens = call.max_completion_tokens
    if max_tokens is None:
        return True
    throughput = performance.throughput_of(node_id, call.model.id)
    # The whole prompt: a cache hit is only likely.
    return throughput.estimate_duration_s(estimate.context_tokens, max_tokens) > AGGREGATE_ABOVE_S


def request_progress(body: bytes, *, stream: bool) -> bytes:
    """Return the request `body`, a JSON object with at least one field, with fields that ask for progress.

    Without `stream` it also asks for a stream. Of two fields with one name llama-server takes the last, so
    nothing has to be parsed.
    """
    fields = _PROGRESS_REQUEST_FIELD if stream else _STREAM_WITH_PROGRESS_FIELDS
    # One copy: the body may have many images.
    return b"".join((memoryview(body.rstrip())[:-1], fields))


class ProgressFilter:
    """Drops the progress events that precede the first token. `start_event` completes what follows them."""

    def __init__(self, start_event: StartEvent | None = None) -> None:
        self.is_finished = False
        self.start_event = start_event
        self._held = b""
        self._has_sent_in_progress = False

    def filter_events(self, events: bytes) -> bytes:
        """Return the part of these whole events to pass on: nothing until `is_finished`, then all but
        progress.
        """
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
        """Return the held bytes, for a stream that ends before its first token."""
        return b"" if self.is_finished else self._held
