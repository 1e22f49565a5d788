"""The model catalogue over HTTP: states, numbers, filters, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn, tiny_gguf


async def test_the_list_is_the_catalogue_in_its_order(llb: RunningBalancer) -> None:
    models = (await llb.http.get("/api/models")).json()["models"]
    assert [item["model"]["id"] for item in models] == ["tiny", "other", "giant"]
    tiny = models[0]
    assert (tiny["status"], tiny["supported"], tiny["available_nodes"]) == ("Available", True, 0)
    assert tiny["fit"]["verdict"] == "fits"
    assert tiny["replicas"] == []
    assert models[2]["fit"]["verdict"] == "too_large"


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("status=available", ["tiny", "other", "giant"]),
        ("status=Ready", []),
        ("q=tin", ["tiny"]),
        ("q=test+other", ["other"]),
        ("capability=textgeneration", ["tiny", "other", "giant"]),
        ("capability=Embedding", []),
        ("tag=chat", []),
    ],
)
async def test_filters(llb: RunningBalancer, query: str, ids: list[str]) -> None:
    models = (await llb.http.get(f"/api/models?{query}")).json()["models"]
    assert [item["model"]["id"] for item in models] == ids


async def test_a_pull_from_registered_to_ready(llb: RunningBalancer) -> None:
    answer = await llb.register_model("tiny")
    assert answer.status_code == 202
    assert answer.json()["model_id"] == "tiny"
    assert answer.json()["status"] == "Registered"
    await llb.wait_for_status("tiny", "Ready")
    tiny = await llb.get_model("tiny")
    assert tiny["available_nodes"] == 1
    assert tiny["downloaded_bytes"] == tiny["total_bytes"] == 300_000
    [replica] = tiny["replicas"]
    assert (replica["node_name"], replica["state"], replica["error"]) == ("attic", "ready", None)
    assert replica["path"].endswith("tiny.gguf")


async def test_paths_of_files_need_the_scope_to_change_them(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    key = await llb.create_key("models:read")
    answer = await llb.http.get("/api/models/tiny", headers={"Authorization": f"Bearer {key}"})
    assert answer.json()["replicas"][0]["path"] is None
    node = await llb.http.get("/api/nodes", headers={"Authorization": f"Bearer {key}"})
    assert str(llb.home) not in node.text


# The exact bodies of three errors in the seed.
async def test_registering_an_unknown_model_fails_as_in_the_seed(llb: RunningBalancer) -> None:
    answer = await llb.register_model("unknown-model")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": {
            "message": "Model 'unknown-model' is not in supported models list",
            "type": "invalid_request_error",
            "code": "model_not_supported",
        }
    }


async def test_registering_a_model_that_is_too_large_fails_as_in_the_seed(
    make_llb: BalancerFactory, tmp_path: Path
) -> None:
    catalog = write_catalog(
        tmp_path / "large.json",
        {"id": "large", "size_bytes": TINY_BYTES, "required_memory_bytes": 16_000_000_000},
    )
    llb = await make_llb(memory_limit_bytes=8_000_000_000, catalog=catalog).start()
    await llb.wait_until_online()
    answer = await llb.register_model("large")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == "Insufficient VRAM. Required: 16GB, Available: 8GB"
    assert (error["type"], error["code"]) == ("resource_error", "insufficient_memory")


async def test_a_downloading_model_fails_with_its_progress_as_in_the_seed(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=135_000)
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == 135_000)
    answer = await llb.http.post("/v1/chat/completions", json={"model": "tiny", "messages": []})
    assert answer.status_code == 503
    assert answer.json() == {
        "error": {
            "message": "Model 'tiny' is still downloading (45% complete)",
            "type": "service_unavailable",
            "code": "model_downloading",
        }
    }
    assert int(answer.headers["retry-after"]) >= 1
    stall.clear()
    await llb.wait_for_status("tiny", "Ready")


async def test_registering_twice_is_a_conflict(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    answer = await llb.register_model("tiny")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_already_registered")
    answer = await llb.register_model("TINY")
    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b'{"model_id": 1}', "invalid_request", "model_id"),
        (b"{}", "invalid_request", "model_id"),
        (b'{"model_id": "tiny", "replicas": 0}', "invalid_request", "replicas"),
        (b'{"model_id": "tiny", "replicas": "some"}', "invalid_request", "replicas"),
        (b'{"x": ' + b"[" * 100_000, "invalid_json", None),
        (b'{"model_id": "\xff"}', "invalid_json", None),
    ],
)
async def test_invalid_bodies(llb: RunningBalancer, body: bytes, code: str, param: str | None) -> None:
    answer = await llb.http.post(
        "/api/models/register", content=body, headers={"Content-Type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("param")) == (400, code, param)


async def test_delete_when_ready_removes_the_files(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    path = llb.home / "models" / "tiny" / "tiny.gguf"
    assert path.is_file()
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    assert (await llb.get_model("tiny"))["status"] == "Available"
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)
    assert not path.parent.exists()


async def test_deleting_during_a_download_keeps_the_partial_file_for_the_next_pull(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=200_000)
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == 200_000)
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)
    [partial] = (llb.home / "models" / "tiny").iterdir()
    assert (partial.suffix, partial.stat().st_size) == (".partial", 200_000)
    stall.clear()
    hub.clear_requests()
    await llb.pull_model("tiny")
    assert [request.range_start for request in hub.byte_requests()] == [200_000]


async def test_registering_a_model_during_its_deletion(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    await llb.http.delete("/api/models/tiny")
    await llb.pull_model("tiny")
    assert (llb.home / "models" / "tiny" / "tiny.gguf").is_file()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("DELETE", "/api/models/tiny", 404, "model_not_registered"),
        ("DELETE", "/api/models/nothing", 404, "model_not_found"),
        ("GET", "/api/models/nothing", 404, "model_not_found"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
        ("GET", "/v1/models/tiny", 404, "model_not_registered"),
        ("GET", "/api/nodes/nothing", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
    ],
)
async def test_unknown_paths_and_models(
    llb: RunningBalancer, method: str, path: str, status: int, code: str
) -> None:
    answer = await llb.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/models", {"GET"}),
        ("/api/models/tiny", {"GET", "PATCH", "DELETE"}),
        ("/api/nodes/0/", {"GET", "PATCH", "DELETE"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "TRACE"])
async def test_unsupported_methods(llb: RunningBalancer, method: str, path: str, methods: set[str]) -> None:
    answer = await llb.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert {*answer.headers["allow"].split(", ")} - {"HEAD", "OPTIONS"} == methods


async def test_a_registration_survives_its_catalogue_entry(make_llb: BalancerFactory, tmp_path: Path) -> None:
    first = await make_llb().start()
    await first.wait_until_online()
    await first.pull_model("tiny")
    await first.stop()
    shorter = tmp_path / "shorter.json"
    entries = json.loads((tmp_path / "catalog.json").read_text())
    shorter.write_text(json.dumps([entry for entry in entries if entry["id"] != "tiny"]))
    second = await make_llb(catalog=shorter).start()
    await second.wait_for_status("tiny", "Ready")
    tiny = await second.get_model("tiny")
    assert (tiny["supported"], tiny["status"]) == (False, "Ready")
    assert (await second.http.delete("/api/models/tiny")).status_code == 204
    await second.wait_until(lambda: "tiny" not in second.app.cluster.view.registrations)
    answer = await second.register_model("tiny")
    assert answer.json()["error"]["code"] == "model_not_supported"


async def test_a_model_of_several_files_is_downloaded_as_a_whole(
    make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path
) -> None:
    hub.add_repo(
        "test/two", {"two.gguf": tiny_gguf(100_000), "two-mmproj.gguf": tiny_gguf(200_000, seed="p")}
    )
    catalog = write_catalog(
        tmp_path / "two.json",
        {"id": "two", "size_bytes": 300_000, "extra_filenames": ["two-mmproj.gguf"]},
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    stall = hub.faults.stall(after=50_000, file="two-mmproj.gguf")
    await llb.register_model("two")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("two").downloaded_bytes or 0) == 150_000)
    assert llb.app.cluster.view.status_of("two").progress == 0.5
    await llb.http.delete("/api/models/two")
    await llb.wait_until(lambda: "two" not in llb.app.cluster.view.registrations)
    names = sorted(path.suffix for path in (llb.home / "models" / "two").iterdir())
    assert names == [".partial", ".partial"]
    stall.clear()
    hub.clear_requests()
    await llb.pull_model("two")
    assert [(request.file, request.range_start) for request in hub.byte_requests()] == [
        ("two-mmproj.gguf", 50_000)
    ]
