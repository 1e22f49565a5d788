"""How patient a download is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DownloadTimeouts:
    """Seconds and bytes after which a download tries something else."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    slow_window_s: float = 60.0
    min_bytes_per_s: int = 2048
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 300.0
    backoff_reset_bytes: int = 1 << 20  # gained in one attempt, they end the back-off
    max_bad_responses: int = 3  # tries again after an answer that makes no sense
    sync_interval_bytes: int = 64 << 20
    sync_interval_s: float = 5.0

    # Other nodes are near, and the next one is as good.
    peer_connect_timeout_s: float = 1.0
    peer_read_timeout_s: float = 4.0
    peer_backoff_initial_s: float = 0.25
    peer_backoff_max_s: float = 2.0
    # How long the first source may have nothing new before the next one is asked. Were it shorter, all would copy from
    # the one that is ahead, whose line they would share, whenever a download begins slowly.
    first_peer_stall_timeout_s: float = 8.0
    # Without a byte from any of them for so long, the Hub is asked. Who has more sources stands further back and waits
    # longer by a step for each: it then finds that the one before it has begun.
    hub_fallback_delay_s: float = 15.0
    hub_fallback_step_s: float = 3.0
    first_peer_recheck_s: float = (
        30.0  # how often one that is not sent the file by its first source looks for that
    )
