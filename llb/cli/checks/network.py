"""Checks of the network: Hub, Hub token, and the clock compared with the Hub's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from llb import hub as hub_module
from llb.cli import output
from llb.cli.checks import Finding, bad, ok, warn
from llb.config import DEFAULT_HUB_ENDPOINT, Config
from llb.hub import HubClient
from llb.wire import Model

HUB_CHECK_TIMEOUT_S = 8.0
REQUEST_TIMEOUT_S = 5.0
CLOCK_TOLERANCE_S = 300.0
# 2026-01-01 in Unix seconds; an earlier clock is wrong.
MIN_PLAUSIBLE_TIME = 1_767_225_600.0
# Requested if the catalogue is empty.
_FALLBACK_REPO = "gpt2"


def check_clock(now: float) -> Iterator[Finding]:
    """Check that the clock is plausible. `check_hub` compares it with the Hub's."""
    if now < MIN_PLAUSIBLE_TIME:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield bad("clock", f"says {shown}", "set it: the expiry of keys and certificates depends on it")


def check_hub(config: Config, models: tuple[Model, ...]) -> Iterator[Finding]:
    """Check that the Hub responds in time, accepts the token and has the same time."""
    name = "the Hub" if config.hub_endpoint == DEFAULT_HUB_ENDPOINT else config.hub_endpoint
    found: list[Finding] = []
    client = HubClient(config.hub_endpoint, config.hub_token, offline=config.hub_offline)
    # A daemon thread, abandoned if it hangs: a proxy that sends single bytes outlasts the request timeout.
    query_thread = threading.Thread(
        target=lambda: found.extend(
            _query_hub(client, name, models[0].repo if models else _FALLBACK_REPO, config)
        ),
        daemon=True,
    )
    query_thread.start()
    query_thread.join(HUB_CHECK_TIMEOUT_S)
    if query_thread.is_alive():
        yield _hub_unreachable(name, f"no answer within {HUB_CHECK_TIMEOUT_S:.0f} s")
    else:
        yield from found


def _query_hub(client: HubClient, name: str, repo: str, config: Config) -> list[Finding]:
    import httpx2

    url = f"{client.endpoint}/api/models/{quote(repo)}?expand=sha"
    started_at = time.monotonic()
    try:
        response = client.get_http_client().get(
            url, headers=client.auth_headers(url), timeout=REQUEST_TIMEOUT_S
        )
    except hub_module.HubError as error:
        return [warn("hub", str(error), "Downloaded models work without it")]
    except (httpx2.HTTPError, OSError, ValueError) as error:
        return [_hub_unreachable(name, hub_module.describe_network_error(error))]
    elapsed_ms = (time.monotonic() - started_at) * 1000
    if response.status_code == 401 and config.hub_token is not None:
        return [bad("hub", f"{name} does not accept the token", "set HF_TOKEN to a valid one, or unset it")]
    if response.status_code == 429 or response.status_code >= 500:
        return [_hub_unreachable(name, f"it responds with {response.status_code}")]
    if not response.headers.get("content-type", "").startswith("application/json"):
        return [
            bad(
                "hub",
                f"something else responds in place of {name}",
                "sign in to the network (a captive portal?), or correct HF_ENDPOINT and HTTPS_PROXY",
            )
        ]
    token = (
        "with a valid token"
        if config.hub_token is not None
        else "without a token (not needed for public models)"
    )
    return [
        ok("hub", f"{name} responds in {elapsed_ms:.0f} ms, {token}"),
        *_compare_clock(response.headers.get("date")),
    ]


def _compare_clock(date: str | None) -> list[Finding]:
    try:
        hub_time = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return []
    offset_s = time.time() - hub_time
    if abs(offset_s) > CLOCK_TOLERANCE_S:
        word = "fast" if offset_s > 0 else "slow"
        return [
            warn(
                "clock",
                f"{output.format_duration(abs(offset_s))} {word} compared with the Hub",
                "set it, or use NTP",
            )
        ]
    return [ok("clock", "agrees with the Hub")]


def _hub_unreachable(name: str, reason: str) -> Finding:
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    hint = "check the proxy in HTTPS_PROXY" if proxy else "check the network; behind a proxy set HTTPS_PROXY"
    return warn("hub", f"{name} cannot be reached: {reason}", f"{hint}. Downloaded models work without it")
