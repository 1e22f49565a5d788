"""Hub client against the stand-in: file information, errors, token, deadlines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llb.hub import (
    HubClient,
    HubError,
    HubFileInfo,
    HubForbidden,
    HubGated,
    HubInvalidResponse,
    HubNotFound,
    HubUnreachable,
)
from llb.wire import HfStats
from tests.hub import HubStandIn
from tests.hub.conftest import DATA, FILE, REPO, SHA256, TIMEOUT_S, TOKEN


@asynccontextmanager
async def hub_with(standin: HubStandIn, token: str | None) -> AsyncIterator[HubClient]:
    hub = HubClient(standin.url, token)
    try:
        yield hub
    finally:
        await hub.aclose()


# --- facts -------------------------------------------------------------------------------------------


async def test_stats(hub: HubClient) -> None:
    assert await hub.fetch_stats(REPO) == HfStats(
        downloads=7, stars=3, last_modified="2026-01-01T00:00:00.000Z", license="apache-2.0"
    )


async def test_resolve_pins_commit_size_and_sha256(standin: HubStandIn, hub: HubClient) -> None:
    facts = await hub.resolve_file(REPO, FILE)
    old = HubFileInfo(repo=REPO, filename=FILE, commit=facts.commit, size_bytes=len(DATA), sha256=SHA256)
    assert facts == old
    new = standin.add_repo(REPO, {FILE: b"GGUF, other bytes"})
    assert (await hub.resolve_file(REPO, FILE)).commit == new
    assert await hub.resolve_file(REPO, FILE, old.commit) == old


async def test_another_commit_than_the_pinned_one_is_refused(standin: HubStandIn, hub: HubClient) -> None:
    good = {"X-Repo-Commit": "a" * 40, "X-Linked-ETag": SHA256, "X-Linked-Size": "5"}
    standin.faults.answer(200, "", headers=good)
    assert (await hub.resolve_file(REPO, FILE, "a" * 40)).commit == "a" * 40
    with pytest.raises(HubInvalidResponse, match="another commit"):
        await hub.resolve_file(REPO, FILE, "b" * 40)


async def test_a_mirror_that_sends_the_bytes_itself_is_understood(
    standin: HubStandIn, hub: HubClient
) -> None:
    standin.faults.direct()
    assert (await hub.resolve_file(REPO, FILE)).sha256 == SHA256
    standin.faults.omit_headers("X-Linked-ETag", "X-Linked-Size")
    assert (await hub.resolve_file(REPO, FILE)).size_bytes == len(DATA)


@pytest.mark.parametrize(("start", "length"), [(0, 24), (100_000, 50_000), (299_990, 1000)])
async def test_read_range(standin: HubStandIn, hub: HubClient, start: int, length: int) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    assert await hub.read_range(REPO, commit, FILE, start, length) == DATA[start : start + length]
    assert [r.range for r in standin.byte_requests()] == [f"bytes={start}-{start + length - 1}"]


async def test_read_range_of_a_server_without_ranges_reads_no_more_than_asked(
    standin: HubStandIn, hub: HubClient
) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    standin.faults.ignore_range()
    standin.faults.stall(after=50_000)
    assert await hub.read_range(REPO, commit, FILE, 0, 1000) == DATA[:1000]
    with pytest.raises(HubInvalidResponse, match="does not support range requests"):
        await hub.read_range(REPO, commit, FILE, 10, 1000)


async def test_read_range_refuses_a_wrong_part_and_too_much(standin: HubStandIn, hub: HubClient) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    standin.faults.wrong_range(start=1)
    with pytest.raises(HubInvalidResponse, match="another part"):
        await hub.read_range(REPO, commit, FILE, 10, 1000)
    with pytest.raises(ValueError, match="cannot read"):
        await hub.read_range(REPO, commit, FILE, 0, 1 << 40)


# --- errors ------------------------------------------------------------------------------------------

Spoil = Callable[[HubStandIn], object]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda s: s.remove_repo(REPO), HubNotFound, "no repository org/name"),
        (lambda s: s.remove_file(REPO, FILE), HubNotFound, "has no file sub dir/tiny.gguf"),
        (lambda s: s.set_gated(REPO), HubGated,
         "accept its licence on its page at the Hub, and set HF_TOKEN"),
        (lambda s: s.faults.fail(401), HubForbidden, "set HF_TOKEN"),
        (lambda s: s.faults.fail(403), HubForbidden, "refuses access to org/name"),
        (lambda s: s.faults.fail(404), HubNotFound, "org/name has no file sub dir/tiny.gguf"),
        (lambda s: s.faults.fail(418), HubInvalidResponse, "answers 418"),
        (lambda s: s.faults.fail(500), HubUnreachable, "answers 500"),
        (lambda s: s.faults.fail(429), HubUnreachable, "answers 429"),
        (lambda s: s.faults.html(), HubInvalidResponse, "web page"),
        (lambda s: s.faults.answer(200, "{"), HubInvalidResponse, "lacks the commit"),
        (lambda s: s.faults.answer(302, "", headers={"Location": "/org/name/resolve/main/x"}),
         HubInvalidResponse, "more than 5"),
        (lambda s: s.faults.answer(302, "", headers={"Location": "ftp://x/y"}), HubInvalidResponse,
         "an invalid URL"),
        (lambda s: s.faults.omit_headers("X-Repo-Commit"), HubInvalidResponse, "lacks the commit"),
        (lambda s: s.faults.omit_headers("X-Linked-Size", "Content-Length"), HubInvalidResponse,
         "lacks the commit or the size"),
        (lambda s: s.stop_listening(), HubUnreachable, "the connection was refused"),
    ],
)  # fmt: skip
async def test_a_failure_is_named_for_a_person(
    standin: HubStandIn, hub: HubClient, spoil: Spoil, error: type[HubError], words: str
) -> None:
    spoil(standin)
    with pytest.raises(error, match=words) as caught:
        await hub.resolve_file(REPO, FILE)
    assert caught.type is error
    assert not any(secret in str(caught.value) for secret in ("http:", "127.0.0.1", "Signature", "/tmp"))


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda h: h.resolve_file(REPO, FILE, "nothing"), HubNotFound, "no revision nothing of org/name"),
        (lambda h: h.resolve_file(REPO, "README.md"), HubInvalidResponse, "no sha256 for README.md"),
        (lambda h: h.fetch_stats("org/nothing"), HubNotFound, "no repository org/nothing, or it is private"),
        (lambda h: h.read_range(REPO, "0" * 40, FILE, 0, 4), HubNotFound, "no longer has commit 0000"),
    ],
)
async def test_what_is_missing_is_told_apart(
    hub: HubClient, ask: Callable[[HubClient], Awaitable[object]], error: type[HubError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await ask(hub)


async def test_gated_with_a_token_that_has_not_accepted(standin: HubStandIn) -> None:
    standin.set_gated(REPO)
    standin.add_token("hf_stranger")
    async with hub_with(standin, "hf_stranger") as hub:
        with pytest.raises(HubGated, match="account of HF_TOKEN may not read it yet") as caught:
            await hub.resolve_file(REPO, FILE)
    assert "hf_stranger" not in str(caught.value)


async def test_an_invalid_token_is_said_so(standin: HubStandIn) -> None:
    async with hub_with(standin, "hf_mistyped") as hub:
        for ask in (hub.resolve_file(REPO, FILE), hub.fetch_stats(REPO)):
            with pytest.raises(HubForbidden, match="does not accept HF_TOKEN") as caught:
                await ask
            assert "hf_mistyped" not in str(caught.value)


async def test_a_missing_repository_with_a_token(standin: HubStandIn) -> None:
    async with hub_with(standin, TOKEN) as hub:
        with pytest.raises(HubNotFound, match="or HF_TOKEN may not see it"):
            await hub.fetch_stats("org/nothing")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, 300.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({}, None),
    ],
)
async def test_the_hub_says_when_to_come_again(
    standin: HubStandIn, hub: HubClient, headers: dict[str, str], seconds: float | None
) -> None:
    standin.faults.answer(429, "slow down", headers=headers)
    with pytest.raises(HubUnreachable) as caught:
        await hub.fetch_stats(REPO)
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize("body", ["", "[]", '{"id": 5}', '{"id": "org/name", "downloads": "many"}', "\xff"])
async def test_figures_that_make_no_sense(standin: HubStandIn, hub: HubClient, body: str) -> None:
    standin.faults.answer(200, body, content_type="application/json")
    with pytest.raises(HubInvalidResponse, match="an invalid response"):
        await hub.fetch_stats(REPO)


async def test_an_answer_that_breaks_off_or_never_ends(standin: HubStandIn, hub: HubClient) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    standin.faults.drop(after=5, times=1)
    with pytest.raises(HubUnreachable, match="the connection broke"):
        await hub.read_range(REPO, commit, FILE, 0, 1000)
    standin.faults.answer(200, " " * (2 << 20), on="api")
    with pytest.raises(HubInvalidResponse, match="too long"):
        await hub.fetch_stats(REPO)


async def test_an_expired_link_is_worth_another_try(standin: HubStandIn, hub: HubClient) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    standin.faults.expire_links(after_s=0, times=1)
    with pytest.raises(HubUnreachable, match="answers 403"):
        await hub.read_range(REPO, commit, FILE, 0, 4)
    assert await hub.read_range(REPO, commit, FILE, 0, 4) == b"GGUF"


async def test_a_name_that_does_not_exist() -> None:
    hub = HubClient("http://no-such-host.invalid")
    with pytest.raises(HubUnreachable, match="its name was not found"):
        await hub.fetch_stats(REPO)
    await hub.aclose()


async def test_silence_is_given_up_on(
    standin: HubStandIn, hub: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.hub.client.REQUEST_TIMEOUT_S", 0.1)
    standin.faults.black_hole()
    with pytest.raises(HubUnreachable, match="did not answer in time"):
        await hub.fetch_stats(REPO)


async def test_a_call_has_a_deadline_of_its_own(
    standin: HubStandIn, hub: HubClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.hub.client.CALL_DEADLINE_S", 0.1)
    standin.faults.black_hole()
    with pytest.raises(HubUnreachable, match="did not answer in time"):
        await hub.fetch_stats(REPO)


async def test_nothing_is_asked_after_the_end(hub: HubClient) -> None:
    await hub.fetch_stats(REPO)
    await hub.aclose()
    await hub.aclose()
    with pytest.raises(HubUnreachable, match="stopping"):
        await hub.fetch_stats(REPO)


def test_a_black_hole_does_not_hold_up_the_exit_of_the_process(standin: HubStandIn) -> None:
    fault = standin.faults.black_hole()
    program = (
        "import asyncio, sys\n"
        "from llb.hub import HubClient, client\n"
        "client.REQUEST_TIMEOUT_S = 3600.0\n"
        "async def main():\n"
        "    task = asyncio.create_task(HubClient(sys.argv[1]).fetch_stats('org/name'))\n"
        "    await asyncio.to_thread(sys.stdin.readline)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, standin.url], stdin=subprocess.PIPE)
    try:
        standin.wait_until(lambda: fault.fired, TIMEOUT_S)
        child.communicate(b"\n", timeout=TIMEOUT_S)
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


# --- the token ---------------------------------------------------------------------------------------


async def test_the_token_goes_to_its_own_origin_only(standin: HubStandIn) -> None:
    standin.set_gated(REPO)
    async with hub_with(standin, TOKEN) as hub:
        facts = await hub.resolve_file(REPO, FILE)
        assert await hub.read_range(REPO, facts.commit, FILE, 0, 4) == b"GGUF"
        assert hub.auth_headers(hub.file_url(REPO, "main", FILE)) == {"Authorization": f"Bearer {TOKEN}"}
        for url in (standin.cdn_url, "http://127.0.0.1.evil.test/", hub.endpoint.replace("http", "https")):
            assert hub.auth_headers(url) == {}
    assert standin.tokens_seen_by_cdn() == []
    assert {r.authorization for r in standin.requests if r.origin == "hub"} == {f"Bearer {TOKEN}"}


async def test_a_redirect_of_the_endpoint_does_not_carry_the_token_away(standin: HubStandIn) -> None:
    with HubStandIn() as elsewhere:
        elsewhere.add_repo(REPO, {FILE: DATA}, downloads=9)
        away = {"Location": f"{elsewhere.url}/{REPO}/resolve/main/x"}
        standin.faults.answer(307, "", headers=away)
        async with hub_with(standin, TOKEN) as hub:
            with pytest.raises(HubError):
                await hub.resolve_file(REPO, FILE)
        assert [r.authorization for r in elsewhere.requests] == [None]


async def test_no_token_is_taken_from_the_users_home(
    standin: HubStandIn, hub: HubClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("hf_of_the_user")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    await hub.fetch_stats(REPO)
    await hub.resolve_file(REPO, FILE)
    assert {r.authorization for r in standin.requests} == {None}


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubStandIn() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        hub = HubClient("http://hub.invalid")
        proxy.faults.answer(200, '{"id": "org/name", "likes": 5}', content_type="application/json")
        assert (await hub.fetch_stats(REPO)).stars == 5
        await hub.aclose()


def test_the_libraries_are_imported_only_when_needed() -> None:
    program = "import sys, llb.hub; print([m for m in ('httpx2', 'huggingface_hub') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


async def test_a_file_host_that_does_not_answer_is_named(standin: HubStandIn, hub: HubClient) -> None:
    commit = (await hub.resolve_file(REPO, FILE)).commit
    standin.stop_listening("cdn")
    with pytest.raises(HubUnreachable, match=r"^the file host of the Hub \(127\.0\.0\.1\) cannot be reached"):
        await hub.read_range(REPO, commit, FILE, 0, 4)
    assert (await hub.resolve_file(REPO, FILE)).commit == commit
    standin.stop_listening()
    with pytest.raises(HubUnreachable, match=r"^the Hub cannot be reached"):
        await hub.resolve_file(REPO, FILE)
