"""Failures of pulls: reported in the model's status, and recovered from without data loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn, tiny_gguf


async def status_of(llb: RunningBalancer) -> tuple[str, str]:
    model = await llb.get_model("tiny")
    return model["status"], model["error"] or ""


async def test_a_missing_repository_is_an_error_and_a_retry_succeeds(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    hub.remove_repo("test/tiny")
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Error")
    assert (await status_of(llb))[1].startswith("The Hub has no repository test/tiny")
    answer = await llb.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_error")
    assert "retry-after" not in answer.headers
    hub.add_repo("test/tiny", {"tiny.gguf": tiny_gguf(TINY_BYTES)})
    await llb.pull_model("tiny")


async def test_a_gated_repository_without_and_with_a_token(
    make_llb: BalancerFactory, hub: HubStandIn
) -> None:
    hub.set_gated("test/tiny")
    hub.add_token("hf_plain")
    llb = await make_llb().start()
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Error")
    assert "set HF_TOKEN" in (await status_of(llb))[1]
    await llb.stop()
    llb = await make_llb(hub_token="hf_plain").start()
    await llb.wait_until_online()
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Registered")
    await llb.wait_for_status("tiny", "Error")
    error = (await status_of(llb))[1]
    assert "accept its licence" in error
    assert "set HF_TOKEN" not in error
    assert "hf_plain" not in error


async def test_the_network_never_ends_a_pull(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.stop_listening()
    answer = await llb.register_model("tiny")
    assert answer.status_code == 202
    await llb.wait_until(
        lambda: (llb.app.cluster.view.status_of("tiny").error or "").startswith("waiting for the network: ")
    )
    assert (await status_of(llb))[0] == "Registered"
    answer = await llb.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_pending")
    assert "waiting for the network" in answer.json()["error"]["message"]
    hub.listen()
    await llb.wait_for_status("tiny", "Ready")


async def test_a_connection_lost_during_a_pull_shows_the_reason(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    hub.faults.drop(after=100_000, times=1)
    await llb.register_model("tiny")
    await llb.wait_until(
        lambda: (llb.app.cluster.view.status_of("tiny").error or "").startswith("waiting for the network: ")
    )
    assert (await status_of(llb))[0] in ("Downloading", "Ready")
    await llb.wait_for_status("tiny", "Ready")
    assert [request.range_start for request in hub.byte_requests()] == [0, 100_000]


async def test_register_and_list_answer_while_the_hub_is_a_black_hole(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    hub.faults.black_hole()
    assert (await llb.register_model("tiny")).status_code == 202
    assert (await llb.http.get("/api/models")).status_code == 200
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204


async def test_corrupt_content_is_downloaded_again_once(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.faults.corrupt()
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Error")
    assert "sha256" in (await status_of(llb))[1]
    assert len(hub.byte_requests()) == 2
    hub.faults.clear()
    await llb.pull_model("tiny")


async def test_a_file_with_another_hash_than_the_catalogue_is_rejected(
    make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path
) -> None:
    catalog = write_catalog(
        tmp_path / "pinned.json", {"id": "tiny", "size_bytes": TINY_BYTES, "sha256": "0" * 64}
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Error")
    assert "sha256" in (await status_of(llb))[1]
    assert hub.byte_requests() == []


async def test_an_invalid_gguf_is_rejected(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.add_repo("test/tiny", {"tiny.gguf": b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 5000})
    await llb.register_model("tiny")
    await llb.wait_for_status("tiny", "Error")
    assert "cannot be used" in (await status_of(llb))[1]


async def test_a_missing_file_is_an_error_and_a_retry_succeeds(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    path = llb.home / "models" / "tiny" / "tiny.gguf"
    path.unlink()
    await llb.stop()
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Error")
    assert "file missing" in (await status_of(llb))[1]
    await llb.pull_model("tiny")
    assert path.stat().st_size == TINY_BYTES


async def test_a_missing_file_is_detected_by_the_first_request(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    (llb.home / "models" / "tiny" / "tiny.gguf").unlink()
    answer = await llb.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_error")
    assert "file missing" in answer.json()["error"]["message"]
    await llb.wait_for_status("tiny", "Error")


@pytest.mark.parametrize("damage", ["truncated", "changed"])
async def test_a_changed_file_is_detected_and_repaired(make_llb: BalancerFactory, damage: str) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    path = llb.home / "models" / "tiny" / "tiny.gguf"
    content = path.read_bytes()
    path.write_bytes(content[:-10] if damage == "truncated" else content[:-10] + b"x" * 10)
    await llb.stop()
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Error")
    assert "file changed" in (await status_of(llb))[1]
    await llb.pull_model("tiny")
    assert path.read_bytes() == content


async def test_a_pull_resumes_after_a_restart(make_llb: BalancerFactory, hub: HubStandIn) -> None:
    stall = hub.faults.stall(after=200_000)
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == 200_000)
    await llb.stop()
    stall.clear()
    hub.clear_requests()
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Ready")
    assert [request.range_start for request in hub.byte_requests()] == [200_000]


async def test_an_unresolved_registration_is_resolved_after_a_restart(
    make_llb: BalancerFactory, hub: HubStandIn
) -> None:
    hub.stop_listening()
    llb = await make_llb().start()
    await llb.register_model("tiny")
    await llb.stop()
    hub.listen()
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Ready")


async def test_a_registration_needs_enough_disk(make_llb: BalancerFactory) -> None:
    llb = await make_llb(disk_limit_bytes=100_000).start()
    await llb.wait_until_online()
    answer = await llb.register_model("tiny")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")


async def test_a_file_of_the_hugging_face_cache_is_adopted(
    llb: RunningBalancer, hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hf"
    blob = cache / "models--test--tiny" / "blobs" / hub.sha256("test/tiny", "tiny.gguf")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(tiny_gguf(TINY_BYTES))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    await llb.pull_model("tiny")
    assert hub.byte_requests() == []


async def test_import_adopts_a_file_by_its_sha256(
    llb: RunningBalancer, hub: HubStandIn, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_gguf(TINY_BYTES))
    answer = await llb.http.post("/api/models/import", json={"path": str(file)})
    assert (answer.status_code, answer.json()["model_id"]) == (202, "tiny")
    await llb.wait_for_status("tiny", "Ready")
    assert hub.byte_requests() == []
    assert file.read_bytes() == tiny_gguf(TINY_BYTES)


async def test_import_rejects_other_files_and_remote_callers(llb: RunningBalancer, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_gguf(TINY_BYTES, seed="not it"))
    answer = await llb.http.post("/api/models/import", json={"path": str(file)})
    assert answer.status_code == 400
    assert "SHA-256" in answer.json()["error"]["message"]
    answer = await llb.http.post(
        "/api/models/import", json={"path": str(file.with_name("none.gguf")), "model_id": "tiny"}
    )
    assert answer.status_code == 400
    key = await llb.create_key("admin")
    answer = await llb.http.post(
        "/api/models/import", json={"path": str(file)}, headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 403


async def test_a_model_without_enough_memory_is_not_ready(make_llb: BalancerFactory) -> None:
    llb = await make_llb().start()
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    await llb.stop()
    llb = await make_llb(memory_limit_bytes=1_000_000).start()
    await llb.wait_until_online()
    assert await status_of(llb) == ("Registered", "waiting for a node with enough memory and disk")
    answer = await llb.http.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_node_available")
    assert "enough memory" in answer.json()["error"]["message"]
    await llb.stop()
    llb = await make_llb().start()
    await llb.wait_for_status("tiny", "Ready")
