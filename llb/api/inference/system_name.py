"""System name: llb's version in place of the fingerprint of an engine that was built without a version."""

from __future__ import annotations

from llb import __version__
from llb.gateway.http.chunk_frames import CHUNK_END, CHUNK_STARTS
from llb.gateway.stream.keepalive import ClientPipe, TranslatingPipe

# No text of an answer can match: JSON escapes quotes.
_OF_ENGINE = b'"system_fingerprint":"b0-unknown"'
_OWN = b'"system_fingerprint":"llb-%b"' % __version__.encode()
# How llama-server ends nearly every event of a chat.
_USUAL_REST = b',"object":"chat.completion.chunk"}\n\n'
_USUAL_TAIL, _OWN_TAIL = _OF_ENGINE + _USUAL_REST, _OWN + _USUAL_REST
_USUAL_END = -len(_USUAL_TAIL)


class SystemNaming:
    """Rewriter of answers in OpenAI's dialect."""

    __slots__ = ()

    def __call__(self, data: bytes) -> bytes:
        """Return `data`, whole events or a document, with llb's name."""
        return data.replace(_OF_ENGINE, _OWN)

    def open_pipe(self, pipe: ClientPipe) -> ClientPipe:
        """Return a pipe to another one that does the same."""
        return _NamingPipe(pipe, self)


class _NamingPipe(TranslatingPipe):
    """Pipe with a fast path for usual events. Hot path: called for each token of each stream."""

    __slots__ = ()

    def write_frame(self, events: bytes, frame: bytes, is_single: bool) -> bool:
        if is_single and events.endswith(_USUAL_TAIL):
            events = events[:_USUAL_END] + _OWN_TAIL
            # As in `frame_chunk`; chunks that skip the parser are not longer.
            frame = b"".join((CHUNK_STARTS[len(events)], events, CHUNK_END))
            return self._pipe.write_frame(events, frame, True)
        return super().write_frame(events, frame, is_single)


name_system = SystemNaming()
