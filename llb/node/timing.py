"""How patient a download is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds and bytes after which a download tries something else."""

    connect_timeout_s: float = 10.0
    silence_timeout_s: float = 20.0
    slow_window_s: float = 60.0
    slow_bytes_per_s: int = 2048
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    steady_bytes: int = 1 << 20  # gained in one attempt, they end the back-off
    misbehaved_limit: int = 3  # tries again after an answer that makes no sense
    sync_every_bytes: int = 64 << 20
    sync_every_s: float = 5.0

    # Other nodes are near, and the next one is as good.
    copy_connect_timeout_s: float = 1.0
    copy_silence_timeout_s: float = 4.0
    copy_pause_first_s: float = 0.25
    copy_pause_max_s: float = 2.0
    # How long the first source may have nothing new before the next one is asked. Were it shorter, all would copy from
    # the one that is ahead, whose line they would share, whenever a download begins slowly.
    copy_first_patience_s: float = 8.0
    # Without a byte from any of them for so long, the Hub is asked. Who has more sources stands further back and waits
    # longer by a step for each: it then finds that the one before it has begun.
    copy_patience_s: float = 15.0
    copy_patience_step_s: float = 3.0
    copy_look_s: float = 30.0  # how often one that is not sent the file by its first source looks for that
