"""Hub fetch: misbehaving servers and final errors."""

from __future__ import annotations

import hashlib

import pytest

from llb.hub import HubClient
from llb.node.download.download_errors import DownloadFailed
from llb.node.files import partial_file_name
from llb.wire import FileSpec, HubSource
from tests.node.replica_fixture import CONTENT, NAME, REPO, DownloadFixture, wait_until

# --- servers that misbehave ------------------------------------------------------------------------


async def test_a_server_without_ranges_costs_no_byte_that_was_there(site: DownloadFixture) -> None:
    site.hub.faults.ignore_range()
    site.write_partial(CONTENT[:2_000_000])
    download = site.start_download()
    sizes = set()

    def done() -> bool:
        sizes.add(site.partial_path.stat().st_size if site.partial_path.exists() else len(CONTENT))
        return download.downloaded_bytes == len(CONTENT)

    await wait_until(done)
    await download.wait()
    site.assert_complete()
    assert min(sizes) >= 2_000_000


@pytest.mark.parametrize(("start", "total"), [(5, 0), (0, 5)])
async def test_a_wrong_range_is_not_used(site: DownloadFixture, start: int, total: int) -> None:
    site.hub.faults.wrong_range(start=start, total=total)
    site.write_partial(CONTENT[:2_000_000])
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=2000000-", None]


async def test_416_means_without_a_range(site: DownloadFixture) -> None:
    site.hub.faults.answer(416, "", times=1, on="bytes")
    site.write_partial(CONTENT[:2_000_000])
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=2000000-", None]


async def test_a_mirror_that_sends_the_bytes_itself_will_do(site: DownloadFixture) -> None:
    site.hub.faults.direct()
    await site.start_download().wait()
    site.assert_complete()


async def test_a_log_in_page_is_waited_out(site: DownloadFixture) -> None:
    site.write_partial(CONTENT[:2_000_000])
    site.hub.faults.html(times=3)
    download = site.start_download()
    await download.wait()
    site.assert_complete()
    assert site.requested_ranges()[-1] == "bytes=2000000-"


async def test_a_mirror_that_always_sends_a_page_is_given_up_with_the_partial_kept(
    site: DownloadFixture,
) -> None:
    site.write_partial(CONTENT[:2_000_000])
    page = site.hub.faults.html()
    with pytest.raises(DownloadFailed, match=r"is not a GGUF file: .* web page") as failure:
        await site.start_download().wait()
    assert failure.value.code == "not_gguf"
    assert page.fired == 4
    assert site.partial_path.read_bytes() == CONTENT[:2_000_000]


async def test_bytes_without_the_magic_are_not_written(site: DownloadFixture) -> None:
    other = b"PK\x03\x04" + CONTENT[4:]
    commit = site.hub.add_repo(REPO, {NAME: other})
    spec = FileSpec(
        name=NAME,
        size_bytes=len(other),
        sha256=hashlib.sha256(other).hexdigest(),
        sources=(HubSource(repo=REPO, commit=commit),),
    )
    with pytest.raises(DownloadFailed, match="is not a GGUF file"):
        await site.start_download(spec).wait()
    assert (site.directory / partial_file_name(spec)).stat().st_size == 0


async def test_a_file_of_another_size_is_given_up(site: DownloadFixture) -> None:
    spec = FileSpec(
        name=NAME, size_bytes=len(CONTENT) + 10, sha256=site.spec.sha256, sources=site.spec.sources
    )
    with pytest.raises(DownloadFailed, match=rf"{len(CONTENT)} bytes instead of {len(CONTENT) + 10}"):
        await site.start_download(spec).wait()


async def test_a_damaged_transfer_is_fetched_once_more(site: DownloadFixture) -> None:
    site.hub.faults.corrupt(times=1)
    await site.start_download().wait()
    site.assert_complete()
    assert site.requested_ranges() == ["bytes=0-", "bytes=0-"]


async def test_a_damaged_source_is_given_up_after_one_more_fetch(site: DownloadFixture) -> None:
    corrupt = site.hub.faults.corrupt()
    with pytest.raises(DownloadFailed, match="sha256") as failure:
        await site.start_download().wait()
    assert failure.value.code == "sha256_mismatch"
    assert corrupt.fired == 2
    assert not site.path.exists()
    assert site.partial_path.stat().st_size == 0


# --- final errors ---------------------------------------------------------------------------------


async def test_a_repository_that_is_gone_ends_it(site: DownloadFixture) -> None:
    site.hub_client = HubClient(site.hub.url, "hf_known")
    site.hub.add_token("hf_known")
    site.hub.remove_repo(REPO)
    with pytest.raises(DownloadFailed, match=REPO) as failure:
        await site.start_download().wait()
    assert failure.value.code == "not_found"


async def test_a_file_that_is_gone_ends_it(site: DownloadFixture) -> None:
    site.hub.remove_file(REPO, NAME)
    with pytest.raises(DownloadFailed, match=NAME) as failure:
        await site.start_download().wait()
    assert failure.value.code == "not_found"


async def test_gated_without_a_token_and_without_the_licence_are_told_apart(site: DownloadFixture) -> None:
    site.hub.set_gated(REPO)
    messages = []
    for token in (None, "hf_stranger"):
        site.hub.add_token("hf_stranger")
        site.hub_client = HubClient(site.hub.url, token)
        with pytest.raises(DownloadFailed, match="licence") as failure:
            await site.start_download().wait()
        assert failure.value.code == "gated"
        messages.append(str(failure.value))
    assert messages[0] != messages[1]


async def test_the_token_opens_the_door_and_goes_to_its_own_origin_only(site: DownloadFixture) -> None:
    site.hub.set_gated(REPO)
    site.hub.add_token("hf_friend", licences=[REPO])
    site.hub_client = HubClient(site.hub.url, "hf_friend")
    await site.start_download().wait()
    site.assert_complete()
    assert not site.hub.tokens_seen_by_cdn()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/"])
async def test_a_redirect_leads_to_the_web_only(site: DownloadFixture, location: str) -> None:
    site.hub.faults.answer(302, "", headers={"Location": location}, on="resolve")
    with pytest.raises(DownloadFailed, match="redirected to an invalid URL"):
        await site.start_download().wait()


async def test_redirects_in_a_circle_are_given_up(site: DownloadFixture) -> None:
    url = site.hub_client.file_url(REPO, site.source.commit, NAME)
    circle = site.hub.faults.answer(302, "", headers={"Location": url}, on="resolve")
    with pytest.raises(DownloadFailed, match="redirected more than 5 times"):
        await site.start_download().wait()
    assert circle.fired == 4 * 6
