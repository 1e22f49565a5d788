"""What the Hub's failures during one download mean for its next attempt."""

from __future__ import annotations

import random

from llb.hub import HubBadAnswer, HubError, HubUnreachable
from llb.node.failures import hub_failure
from llb.node.fetch import RangeRefused
from llb.node.timing import Timing


class HubPatience:
    """Counts failures; `ranged` is whether the Hub may be asked for a part of the file."""

    def __init__(self, name: str, timing: Timing) -> None:
        self.ranged = True
        self._name = name
        self._timing = timing
        self._failures = 0
        self._misbehaved = 0

    def after(self, error: HubError, gained_bytes: int) -> float:
        """How long to leave the Hub alone after an attempt that brought `gained_bytes`.

        Raises `DownloadFailed` for what waiting will not mend.
        """
        timing = self._timing
        if gained_bytes >= timing.steady_bytes:
            self._failures = self._misbehaved = 0
        self.ranged = self.ranged and not isinstance(error, RangeRefused)
        self._misbehaved += isinstance(error, HubBadAnswer)
        if self._misbehaved > timing.misbehaved_limit or not isinstance(
            error, (HubUnreachable, HubBadAnswer)
        ):
            raise hub_failure(self._name, error)
        pause_s = min(timing.backoff_max_s, timing.backoff_first_s * 2.0 ** min(self._failures, 30))
        pause_s *= random.uniform(0.5, 1.0)  # noqa: S311  # so that a thousand nodes do not return at once
        if isinstance(error, HubUnreachable) and error.retry_after_s is not None:
            pause_s = min(timing.backoff_max_s, max(pause_s, error.retry_after_s))
        self._failures += 1
        return pause_s
