"""Retry policy for the Hub: delay, ranges and final errors after the failures of one download."""

from __future__ import annotations

from llb.base.backoff import Backoff
from llb.hub import HubError, HubInvalidResponse, HubUnreachable
from llb.node.download.download_errors import download_error_from_hub
from llb.node.download.hub_fetch import RangeNotSupported
from llb.node.download.timeouts import DownloadTimeouts


class HubRetryPolicy:
    """Retry policy of one download. `can_use_ranges` is False once the Hub has mishandled a range."""

    def __init__(self, file_name: str, timeouts: DownloadTimeouts) -> None:
        self.can_use_ranges = True
        self._file_name = file_name
        self._timeouts = timeouts
        # Jitter: a thousand nodes must not return at the same moment.
        self._backoff = Backoff(timeouts.backoff_initial_s, timeouts.backoff_max_s, jitter=0.5)
        self._bad_responses = 0

    def next_delay_s(self, error: HubError, gained_bytes: int) -> float:
        """Seconds to wait after an attempt that failed with `error` and gained `gained_bytes`.

        Raises `DownloadFailed` if waiting does not help.
        """
        timeouts = self._timeouts
        if gained_bytes >= timeouts.backoff_reset_bytes:
            self._backoff.reset()
            self._bad_responses = 0
        self.can_use_ranges = self.can_use_ranges and not isinstance(error, RangeNotSupported)
        self._bad_responses += isinstance(error, HubInvalidResponse)
        if self._bad_responses > timeouts.max_bad_responses or not isinstance(
            error, (HubUnreachable, HubInvalidResponse)
        ):
            raise download_error_from_hub(self._file_name, error)
        delay_s = self._backoff.next_delay_s()
        if isinstance(error, HubUnreachable) and error.retry_after_s is not None:
            delay_s = min(timeouts.backoff_max_s, max(delay_s, error.retry_after_s))
        return delay_s
