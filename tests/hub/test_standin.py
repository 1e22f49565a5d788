"""Hub stand-in, checked with the real huggingface_hub and over plain sockets."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import HubProcess, HubStandIn, tiny_gguf

REPO, FILE = "org/name", "tiny.gguf"
DATA = tiny_gguf(300_000)


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as hub:
        hub.add_repo(REPO, {FILE: DATA, "README.md": b"# hi"}, downloads=7, likes=3)
        yield hub


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(follow_redirects=True, timeout=10) as client:
        yield client


def file_url(hub: HubStandIn, file: str = FILE, revision: str = "main") -> str:
    return f"{hub.url}/{REPO}/resolve/{revision}/{file}"


def metadata(hub: HubStandIn, **changed: Any) -> Any:
    where = {"repo_id": REPO, "filename": FILE, "revision": "main"} | changed
    token = where.pop("token", False)
    return get_hf_file_metadata(
        hf_hub_url(**where, endpoint=hub.url), token=token, endpoint=hub.url, timeout=10
    )


# --- the protocol, as the real library reads it ------------------------------------------------------


def test_model_info_has_the_figures_and_only_what_was_asked(hub: HubStandIn) -> None:
    info = HfApi(endpoint=hub.url, token=False).model_info(
        REPO, expand=["downloads", "likes", "lastModified", "gated", "sha"], timeout=10
    )
    assert (info.downloads, info.likes, info.gated) == (7, 3, False)
    assert info.last_modified is not None
    assert info.last_modified.year == 2026
    assert info.siblings is None


def test_files_and_their_hashes_are_listed(hub: HubStandIn) -> None:
    api = HfApi(endpoint=hub.url, token=False)
    siblings = api.model_info(REPO, files_metadata=True, timeout=10).siblings or []
    sizes = {s.rfilename: (s.size, s.lfs.sha256 if s.lfs else None) for s in siblings}
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert sizes == {FILE: (len(DATA), sha256), "README.md": (4, None)}
    [entry] = api.get_paths_info(REPO, [FILE])
    assert getattr(entry, "lfs").sha256 == sha256  # noqa: B009
    assert {entry.path for entry in api.list_repo_tree(REPO, recursive=True)} == {FILE, "README.md"}


def test_file_metadata_names_commit_hash_size_and_another_origin(hub: HubStandIn) -> None:
    facts = metadata(hub)
    assert facts.etag == hashlib.sha256(DATA).hexdigest()
    assert facts.size == len(DATA)
    assert facts.location.startswith(hub.cdn_url + "/")
    assert len(facts.commit_hash) == 40


def test_the_real_library_downloads(hub: HubStandIn, tmp_path: Path) -> None:
    for file, data in ((FILE, DATA), ("README.md", b"# hi")):
        path = hf_hub_download(REPO, file, endpoint=hub.url, token=False, cache_dir=tmp_path)
        assert Path(path).read_bytes() == data


def test_a_new_commit_moves_main_and_keeps_the_old(hub: HubStandIn, client: httpx2.Client) -> None:
    old = metadata(hub).commit_hash
    new = hub.add_repo(REPO, {FILE: b"GGUF and other bytes"})
    assert metadata(hub).commit_hash == new != old
    assert client.get(file_url(hub, revision=old)).content == DATA


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"repo_id": "org/nothing"}, RepositoryNotFoundError),
        ({"filename": "nothing.gguf"}, RemoteEntryNotFoundError),
        ({"revision": "nothing"}, RevisionNotFoundError),
    ],
)
def test_what_is_missing_comes_out_typed(
    hub: HubStandIn, changed: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        metadata(hub, **changed)
    assert caught.type is error


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_stranger", 403)])
def test_a_gated_repo_is_refused_without_its_licence(hub: HubStandIn, token: str | bool, status: int) -> None:
    hub.set_gated(REPO)
    hub.add_token("hf_stranger")
    with pytest.raises(GatedRepoError) as caught:
        metadata(hub, token=token)
    assert caught.value.response.status_code == status


def test_a_licensed_token_opens_a_gated_repo_and_never_reaches_the_cdn(
    hub: HubStandIn, tmp_path: Path
) -> None:
    hub.set_gated(REPO)
    hub.add_token("hf_good", licences=[REPO])
    hf_hub_download(REPO, FILE, endpoint=hub.url, token="hf_good", cache_dir=tmp_path)
    assert "Bearer hf_good" in [request.authorization for request in hub.requests]
    assert hub.byte_requests()
    assert hub.tokens_seen_by_cdn() == []


def test_an_unknown_token_is_an_http_error_of_its_own(hub: HubStandIn) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        metadata(hub, token="hf_wrong")
    assert not isinstance(caught.value, RepositoryNotFoundError)


def test_a_token_sent_to_the_cdn_would_be_seen(hub: HubStandIn, client: httpx2.Client) -> None:
    location = metadata(hub).location
    client.get(location, headers={"Authorization": "Bearer leaked"})
    assert hub.tokens_seen_by_cdn() == ["Bearer leaked"]


# --- ranges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "body", "shown"),
    [
        ("bytes=0-3", 206, DATA[:4], "bytes 0-3/300000"),
        ("bytes=299990-", 206, DATA[-10:], "bytes 299990-299999/300000"),
        ("bytes=-5", 206, DATA[-5:], "bytes 299995-299999/300000"),
        ("bytes=299999-400000", 206, DATA[-1:], "bytes 299999-299999/300000"),
        ("bytes=0-1,4-5", 200, DATA, None),
        ("lines=1-2", 200, DATA, None),
        ("bytes=300000-", 416, b"", "bytes */300000"),
    ],
)
def test_ranges(
    hub: HubStandIn, client: httpx2.Client, asked: str, status: int, body: bytes, shown: str | None
) -> None:
    answer = client.get(file_url(hub), headers={"Range": asked})
    assert (answer.status_code, answer.headers.get("content-range")) == (status, shown)
    assert status == 416 or answer.content == body
    assert hub.byte_requests()[-1].range == asked


def test_a_file_on_disk_is_served_like_bytes(hub: HubStandIn, client: httpx2.Client, tmp_path: Path) -> None:
    (tmp_path / "big.gguf").write_bytes(DATA * 10)
    hub.add_repo(REPO, {FILE: tmp_path / "big.gguf"})
    assert client.get(file_url(hub), headers={"Range": "bytes=7-"}).content == (DATA * 10)[7:]
    assert hub.bytes_sent == len(DATA) * 10 - 7


# --- faults ------------------------------------------------------------------------------------------


def received(client: httpx2.Client, url: str) -> tuple[int, type[Exception] | None]:
    """Return the number of received bytes of the body, and the error that ended it."""
    count = 0
    try:
        with client.stream("GET", url) as answer:
            for piece in answer.iter_raw():
                count += len(piece)
    except httpx2.HTTPError as error:
        return count, type(error)
    return count, None


def test_drop_resets_after_exactly_so_many_bytes_and_so_many_times(
    hub: HubStandIn, client: httpx2.Client
) -> None:
    fault = hub.faults.drop(after=100_000, times=2)
    assert received(client, file_url(hub)) == (100_000, httpx2.ReadError)
    assert received(client, file_url(hub)) == (100_000, httpx2.ReadError)
    assert received(client, file_url(hub)) == (300_000, None)
    assert (fault.fired, fault.is_active) == (2, False)


def test_short_closes_cleanly(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.short(after=1000, times=1)
    assert received(client, file_url(hub)) == (1000, httpx2.RemoteProtocolError)


def test_stall_is_silent_until_cleared(hub: HubStandIn, client: httpx2.Client) -> None:
    fault = hub.faults.stall(after=1000)
    result: list[tuple[int, type[Exception] | None]] = []
    thread = threading.Thread(target=lambda: result.append(received(client, file_url(hub))))
    thread.start()
    hub.wait_until(lambda: fault.fired == 1)
    assert hub.bytes_sent == 1000
    fault.clear()
    thread.join(10)
    assert result == [(300_000, None)]


def test_stall_ends_when_the_peer_goes(hub: HubStandIn) -> None:
    hub.faults.stall(after=1000, times=1)
    with httpx2.Client(follow_redirects=True, timeout=0.2) as impatient:
        assert received(impatient, file_url(hub)) == (1000, httpx2.ReadTimeout)
    hub.wait_until(lambda: hub.byte_requests()[-1].done)


def test_corrupt_flips_one_byte_of_the_first_fetches(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.corrupt(at=5, times=1)
    assert client.get(file_url(hub), headers={"Range": "bytes=6-"}).content == DATA[6:]
    broken = client.get(file_url(hub)).content
    assert [i for i, (a, b) in enumerate(zip(broken, DATA, strict=True)) if a != b] == [5]
    assert client.get(file_url(hub)).content == DATA


def test_ignored_and_wrong_ranges(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.ignore_range(times=1)
    answer = client.get(file_url(hub), headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (200, DATA)
    hub.faults.wrong_range(start=2, total=1, times=1)
    answer = client.get(file_url(hub), headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.headers["content-range"]) == (206, "bytes 12-21/300001")


def test_failures_are_counted_and_placed(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.fail(503, retry_after_s=7, times=2, on="resolve")
    hub.faults.fail(500, repo="org/other")
    for _ in range(2):
        answer = client.get(file_url(hub))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert client.get(file_url(hub)).status_code == 200
    assert client.get(f"{hub.url}/api/models/org/other").status_code == 500


def test_html_direct_and_missing_headers(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.html(times=1)
    assert client.get(file_url(hub)).text.startswith("<!DOCTYPE html>")
    hub.faults.omit_headers("X-Repo-Commit", times=1)
    assert "x-repo-commit" not in client.head(file_url(hub), follow_redirects=False).headers
    hub.faults.direct(times=1)
    answer = client.get(file_url(hub), follow_redirects=False)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert client.get(file_url(hub), follow_redirects=False).status_code == 302  # on the same connection


def test_links_expire_and_cannot_be_forged(hub: HubStandIn, client: httpx2.Client) -> None:
    hub.faults.expire_links(after_s=0, times=1)
    assert client.get(file_url(hub)).status_code == 403
    assert client.get(file_url(hub)).status_code == 200
    assert client.get(metadata(hub).location + "0").status_code == 403


def test_throttle_paces_and_ends_when_cleared(hub: HubStandIn, client: httpx2.Client) -> None:
    fault = hub.faults.throttle(bytes_per_s=100_000)
    result: list[tuple[int, type[Exception] | None]] = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: result.append(received(client, file_url(hub))))
    thread.start()
    hub.wait_until(lambda: hub.bytes_sent >= 30_000)
    assert time.monotonic() - began > 0.15  # a lower bound: 30 kB may not take less at this rate
    fault.clear()
    thread.join(10)
    assert result == [(300_000, None)]


def test_black_hole_answers_never_and_latency_late(hub: HubStandIn) -> None:
    fault = hub.faults.black_hole()
    with httpx2.Client(timeout=0.1) as impatient, pytest.raises(httpx2.ReadTimeout):
        impatient.get(f"{hub.url}/api/models/{REPO}")
    fault.clear()
    hub.faults.latency(0.3)
    began = time.monotonic()
    with httpx2.Client(timeout=30) as client:
        client.get(f"{hub.url}/api/models/{REPO}")
    assert time.monotonic() - began >= 0.3


def test_refuse_closes_and_listen_opens_the_same_address(hub: HubStandIn, client: httpx2.Client) -> None:
    url = hub.url
    assert client.get(file_url(hub)).status_code == 200
    hub.stop_listening()
    with pytest.raises(httpx2.ConnectError):
        client.get(file_url(hub))
    hub.listen()
    assert hub.url == url
    assert client.get(file_url(hub)).status_code == 200


def test_stop_leaves_no_thread_even_in_the_middle_of_a_stall() -> None:
    before = threading.active_count()
    with HubStandIn() as hub:
        hub.add_repo(REPO, {FILE: DATA})
        fault = hub.faults.black_hole()
        with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2]))) as peer:
            peer.sendall(b"GET /api/models/org/name HTTP/1.1\r\n\r\n")
            hub.wait_until(lambda: fault.fired)
            hub.stop()
    assert threading.active_count() == before


def test_wait_until_gives_up(hub: HubStandIn) -> None:
    with pytest.raises(TimeoutError):
        hub.wait_until(lambda: False, timeout_s=0.01)


# --- control -----------------------------------------------------------------------------------------


def test_control_changes_faults_over_http(hub: HubStandIn, client: httpx2.Client) -> None:
    def control(order: dict[str, Any]) -> httpx2.Response:
        return client.post(f"{hub.url}/_control", json=order)

    control({"add": {"kind": "fail", "args": [418], "times": 1}})
    assert client.get(file_url(hub)).status_code == 418
    control({"add": {"kind": "html", "on": "api"}, "gated": {REPO: True}})
    assert client.get(file_url(hub)).status_code == 401
    assert len(control({}).json()["faults"]) == 1
    control({"clear": True, "gated": {REPO: False}})
    assert client.get(file_url(hub)).content == DATA
    assert control({"add": {"kind": "nonsense"}}).status_code == 400
    assert [r for r in hub.requests if r.path == "/_control"] == []


def test_the_process_serves_a_catalogue(client: httpx2.Client, tmp_path: Path) -> None:
    (tmp_path / "real.gguf").write_bytes(DATA)
    entries = [
        {"id": "a", "repo": "org/a", "recommended_filename": "a.gguf", "extra_filenames": ["a-2.gguf"]},
        {"id": "b", "repo": "org/b", "recommended_filename": "b.gguf", "revision": "0" * 40},
    ]
    catalog = tmp_path / "list.json"
    catalog.write_text(json.dumps(entries))
    real = f"b.gguf={tmp_path / 'real.gguf'}"
    with HubProcess("--catalog", str(catalog), "--file", real, "--size", "5KB", "--gated", "a") as hub:
        assert client.get(f"{hub.url}/org/b/resolve/{'0' * 40}/b.gguf").content == DATA
        second = f"{hub.url}/org/a/resolve/main/a-2.gguf"
        assert client.get(second).headers["X-Error-Code"] == "GatedRepo"
        assert hub.control(gated={"org/a": False})["faults"] == []
        data = client.get(second).content
        assert (data[:4], len(data)) == (b"GGUF", 5000)
