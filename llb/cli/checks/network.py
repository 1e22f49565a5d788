"""The world outside: the Hub, its token, and what time it is there."""

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
MIN_PLAUSIBLE_TIME = 1_767_225_600.0  # 2026-01-01: no clock that is right shows less
_FALLBACK_REPO = "gpt2"  # a repository that every Hub has, where the catalogue names none


def check_clock(now: float) -> Iterator[Finding]:
    """Whether the clock can be right at all; `hub` compares it with another one."""
    if now < MIN_PLAUSIBLE_TIME:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield bad("clock", f"says {shown}", "set it: keys expire and certificates are judged by it")


def check_hub(config: Config, models: tuple[Model, ...]) -> Iterator[Finding]:
    """Whether the Hub answers within a short deadline, takes the token, and agrees about the time."""
    name = "the Hub" if config.hub_endpoint == DEFAULT_HUB_ENDPOINT else config.hub_endpoint
    found: list[Finding] = []
    client = HubClient(config.hub_endpoint, config.hub_token)
    # A thread of its own, left behind if it hangs: a proxy that drips would outlive every time-out of a request.
    asking = threading.Thread(
        target=lambda: found.extend(
            _query_hub(client, name, models[0].repo if models else _FALLBACK_REPO, config)
        ),
        daemon=True,
    )
    asking.start()
    asking.join(HUB_CHECK_TIMEOUT_S)
    if asking.is_alive():
        yield _hub_unreachable(name, f"no answer within {HUB_CHECK_TIMEOUT_S:.0f} s")
    else:
        yield from found


def _query_hub(client: HubClient, name: str, repo: str, config: Config) -> list[Finding]:
    import httpx2

    url = f"{client.endpoint}/api/models/{quote(repo)}?expand=sha"
    began = time.monotonic()
    try:
        answer = client.get_http_client().get(
            url, headers=client.auth_headers(url), timeout=REQUEST_TIMEOUT_S
        )
    except (httpx2.HTTPError, hub_module.HubError, OSError, ValueError) as error:
        return [_hub_unreachable(name, hub_module.describe_network_error(error))]
    took_ms = (time.monotonic() - began) * 1000
    if answer.status_code == 401 and config.hub_token is not None:
        return [bad("hub", f"{name} does not accept the token", "set HF_TOKEN to a valid one, or unset it")]
    if answer.status_code == 429 or answer.status_code >= 500:
        return [_hub_unreachable(name, f"it answers {answer.status_code}")]
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return [
            bad(
                "hub",
                f"something else answers in place of {name}",
                "sign in to the network (a hotel's page?), or correct HF_ENDPOINT and HTTPS_PROXY",
            )
        ]
    token = (
        "with a valid token" if config.hub_token is not None else "without a token (enough for open models)"
    )
    return [
        ok("hub", f"{name} answers in {took_ms:.0f} ms, {token}"),
        *_compare_clock(answer.headers.get("date")),
    ]


def _compare_clock(date: str | None) -> list[Finding]:
    try:
        theirs = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return []
    off = time.time() - theirs
    if abs(off) > CLOCK_TOLERANCE_S:
        word = "fast" if off > 0 else "slow"
        return [
            warn(
                "clock",
                f"{output.format_duration(abs(off))} {word}, by the Hub's",
                "set it, or let NTP do so",
            )
        ]
    return [ok("clock", "agrees with the Hub's")]


def _hub_unreachable(name: str, reason: str) -> Finding:
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    hint = "check the proxy in HTTPS_PROXY" if proxy else "check the network; behind a proxy set HTTPS_PROXY"
    return warn("hub", f"{name} cannot be reached: {reason}", f"{hint}. Models that are here work without it")
