"""Request recorder: one record in the request log for every inference request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType

from msgspec import Struct

from llb.api.error_mapping import http_status_of, to_llb_error
from llb.api.head_facts import facts_of, request_id_of
from llb.api.incoming_request import IncomingRequest
from llb.base.logs import log_setup
from llb.errors import LlbError
from llb.gateway.observability.request_log import RequestLog, RequestRecord

log = logging.getLogger(__name__)

# The status that nginx gives to a request whose client closed the connection.
CLIENT_CLOSED_STATUS, CLIENT_CLOSED_CODE = 499, "client_closed"


class RequestRecorder:
    """Records every inference request, however it ends."""

    def __init__(self, request_log: RequestLog) -> None:
        self.keeps_text = request_log.keeps_text
        self._request_log = request_log

    def record(
        self,
        request: IncomingRequest,
        http_status_of: Callable[[LlbError], int] = http_status_of,
        *,
        endpoint: str | None = None,
        requested_model: str | None = None,
        stream: bool = False,
    ) -> RequestRecording:
        """Open the record of `request`, which closes when the block ends; `endpoint` replaces its path.

        An error that leaves the block is recorded with the status that `http_status_of` gives it.
        """
        record = self._request_log.open_record(
            request.ctx.principal,
            endpoint or request.path.rstrip("/"),
            request_id_of(request),
            facts_of(request).trace_headers,
            requested_model,
            stream=stream,
        )
        return RequestRecording(self._request_log, record, http_status_of)


class RequestRecording(Struct, eq=False):
    """Context manager that closes a request record with its outcome.

    A class rather than a generator: every inference request passes through it.
    """

    _request_log: RequestLog
    record: RequestRecord
    _http_status_of: Callable[[LlbError], int]

    def close(self) -> None:
        """Close the record of a request that was answered, without a block."""
        self._request_log.close_record(self.record)
        if log.isEnabledFor(logging.DEBUG):
            # The context of a callback is shared with other requests.
            copy_context().run(self._bind_and_log)

    def _bind_and_log(self) -> None:
        record = self.record
        traceparent = record.trace_headers[0][1].decode("latin-1") if record.trace_headers else None
        log_setup.bind_request(record.request_id, None if traceparent is None else traceparent.split("-")[1])
        self._log_outcome()

    def __enter__(self) -> RequestRecord:
        return self.record

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        record = self.record
        # Sanic cancels the handler of a client that closed the connection, as many do right after the end.
        if isinstance(error, asyncio.CancelledError) and record.is_answered and record.status:
            record.error_code = None
        elif isinstance(error, asyncio.CancelledError):
            record.status = record.status or CLIENT_CLOSED_STATUS
            record.error_code = CLIENT_CLOSED_CODE
        elif isinstance(error, Exception):
            llb_error = to_llb_error(error)
            record.status = record.status or self._http_status_of(llb_error)
            record.error_code = llb_error.code
        self._request_log.close_record(record)
        if log.isEnabledFor(logging.DEBUG):
            self._log_outcome()

    def _log_outcome(self) -> None:
        record = self.record
        outcome = record.error_code or "done"
        log.debug("%s %s: %s, %s", record.endpoint, record.requested_model, record.status, outcome)
