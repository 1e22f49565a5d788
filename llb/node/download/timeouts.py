"""Timeouts and limits of downloads."""

from __future__ import annotations

from msgspec import Struct


class DownloadTimeouts(Struct, frozen=True, kw_only=True):
    """Seconds and bytes after which a download retries or changes its source."""

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    slow_window_s: float = 60.0
    min_bytes_per_s: int = 2048
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 300.0
    # An attempt that gained this many bytes resets the back-off.
    backoff_reset_bytes: int = 1 << 20
    # Retries after invalid responses.
    max_bad_responses: int = 3
    sync_interval_bytes: int = 64 << 20
    sync_interval_s: float = 5.0

    # Connections to the Hub for one file, where one connection is held down.
    max_connections: int = 4
    # Time over which the rate of a number of connections is measured.
    connection_window_s: float = 0.25
    # A smaller rest of a file is downloaded over the connections that there are.
    min_parallel_bytes: int = 256 << 20
    # Least size of a range that is requested on its own.
    min_range_bytes: int = 128 << 10

    # Short: other nodes are near, and the next one is as good.
    peer_connect_timeout_s: float = 1.0
    peer_read_timeout_s: float = 4.0
    peer_backoff_initial_s: float = 0.25
    peer_backoff_max_s: float = 2.0
    # How long the first source may have nothing new before the next one is used. If it were shorter, all
    # nodes would copy from the one that is ahead, and share its bandwidth, when a download starts slowly.
    first_peer_stall_timeout_s: float = 8.0
    # The Hub is used after this time without a byte from any node. A node with more sources is further back
    # in the chain and waits a step longer for each of them: by then the node before it has started.
    hub_fallback_delay_s: float = 15.0
    hub_fallback_step_s: float = 3.0
    # How long a node copies from another source than its first one before it checks the first one again.
    first_peer_recheck_s: float = 30.0
