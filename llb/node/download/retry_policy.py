"""What the Hub's failures during one download mean for its next attempt."""

from __future__ import annotations

import random

from llb.hub import HubError, HubInvalidResponse, HubUnreachable
from llb.node.download.download_errors import download_error_from_hub
from llb.node.download.hub_fetch import RangeNotSupported
from llb.node.download.timeouts import DownloadTimeouts


class HubRetryPolicy:
    """Counts failures; `ranged` is whether the Hub may be asked for a part of the file."""

    def __init__(self, file_name: str, timeouts: DownloadTimeouts) -> None:
        self.can_use_ranges = True
        self._file_name = file_name
        self._timeouts = timeouts
        self._failures = 0
        self._bad_responses = 0

    def next_delay_s(self, error: HubError, gained_bytes: int) -> float:
        """How long to leave the Hub alone after an attempt that brought `gained_bytes`.

        Raises `DownloadFailed` for what waiting will not mend.
        """
        timing = self._timeouts
        if gained_bytes >= timing.backoff_reset_bytes:
            self._failures = self._bad_responses = 0
        self.can_use_ranges = self.can_use_ranges and not isinstance(error, RangeNotSupported)
        self._bad_responses += isinstance(error, HubInvalidResponse)
        if self._bad_responses > timing.max_bad_responses or not isinstance(
            error, (HubUnreachable, HubInvalidResponse)
        ):
            raise download_error_from_hub(self._file_name, error)
        pause_s = min(timing.backoff_max_s, timing.backoff_initial_s * 2.0 ** min(self._failures, 30))
        pause_s *= random.uniform(0.5, 1.0)  # noqa: S311  # so that a thousand nodes do not return at once
        if isinstance(error, HubUnreachable) and error.retry_after_s is not None:
            pause_s = min(timing.backoff_max_s, max(pause_s, error.retry_after_s))
        self._failures += 1
        return pause_s
