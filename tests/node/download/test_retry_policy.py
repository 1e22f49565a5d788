"""Retries of a download from the Hub: what is worth one, after how long."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llb.hub import HubError, HubForbidden, HubGated, HubInvalidResponse, HubNotFound, HubUnreachable
from llb.node.download.download_errors import DownloadFailed
from llb.node.download.hub_fetch import NotGguf, RangeNotSupported
from llb.node.download.retry_policy import HubRetryPolicy
from llb.node.download.timeouts import DownloadTimeouts

TIMEOUTS = replace(
    DownloadTimeouts(), backoff_initial_s=1.0, backoff_max_s=8.0, backoff_reset_bytes=100, max_bad_responses=2
)


def policy() -> HubRetryPolicy:
    return HubRetryPolicy("m.gguf", TIMEOUTS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HubNotFound("gone"), "not_found"),
        (HubGated("gated"), "gated"),
        (HubForbidden("no"), "refused"),
        (HubError("no"), "refused"),
    ],
)
def test_what_waiting_cannot_mend_ends_the_download(error: HubError, code: str) -> None:
    with pytest.raises(DownloadFailed) as failed:
        policy().next_delay_s(error, 10**9)
    assert (failed.value.code, failed.value.message) == (code, error.message)


def test_an_absent_hub_is_tried_for_ever_at_growing_distances() -> None:
    retries = policy()
    delays = [retries.next_delay_s(HubUnreachable("away"), 0) for _ in range(20)]
    # The jitter takes up to a half or adds it.
    assert delays[0] < delays[4]
    assert max(delays) <= 8.0 * 1.5
    assert min(delays[6:]) >= 8.0 * 0.5


def test_progress_begins_the_distances_anew() -> None:
    retries = policy()
    for _ in range(10):
        retries.next_delay_s(HubUnreachable("away"), 99)
    assert retries.next_delay_s(HubUnreachable("away"), 100) <= 1.5


def test_the_hub_may_ask_for_more_time_within_bounds() -> None:
    assert policy().next_delay_s(HubUnreachable("busy", retry_after_s=5.0), 0) == 5.0
    assert policy().next_delay_s(HubUnreachable("busy", retry_after_s=99.0), 0) == 8.0
    assert policy().next_delay_s(HubUnreachable("busy", retry_after_s=0.0), 0) > 0


def test_bad_answers_are_worth_a_few_attempts() -> None:
    retries = policy()
    for _ in range(2):
        retries.next_delay_s(HubInvalidResponse("odd"), 0)
        # An absent Hub in between is no excuse.
        retries.next_delay_s(HubUnreachable("away"), 0)
    with pytest.raises(DownloadFailed, match=r"m\.gguf cannot be downloaded: odd") as failed:
        retries.next_delay_s(HubInvalidResponse("odd"), 0)
    assert failed.value.code == "bad_answer"
    with pytest.raises(DownloadFailed, match="is not a GGUF file"):
        retries.next_delay_s(NotGguf("it is a web page"), 0)
    # Unless bytes have come.
    retries.next_delay_s(HubInvalidResponse("odd"), 100)


def test_ranges_are_given_up_once_they_were_mishandled() -> None:
    retries = policy()
    retries.next_delay_s(HubUnreachable("away"), 0)
    assert retries.can_use_ranges
    retries.next_delay_s(RangeNotSupported("odd"), 0)
    retries.next_delay_s(HubUnreachable("away"), 100)
    assert not retries.can_use_ranges
