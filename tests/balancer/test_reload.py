"""Reload of the running server (SIGHUP): catalogue and certificate, without dropping a connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from llb.security import tls_trust
from llb.security.certificates import create_authority, issue_certificate
from tests.conftest import TINY_BYTES, BalancerFactory, start_balancer
from tests.harness import RunningBalancer, wait_until, write_catalog

TINY, OTHER = ({"id": name, "size_bytes": TINY_BYTES} for name in ("tiny", "other"))


async def model_ids(llb: RunningBalancer) -> list[str]:
    return [model["model"]["id"] for model in (await llb.http.get("/api/models")).json()["models"]]


async def test_new_entries_appear_and_used_ones_stay(make_llb: BalancerFactory, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "c.json", TINY)
    llb = await start_balancer(make_llb(catalog=catalog))
    await llb.pull_model("tiny")
    async with llb.open_event_stream() as reader:
        write_catalog(catalog, OTHER)
        await llb.app.reload()
        while json.loads(await reader.recv())["type"] != "Resync":
            pass
        # Then the whole state again.
        assert json.loads(await reader.recv())["model_id"] == "tiny"
    assert await model_ids(llb) == ["other", "tiny"]
    assert (await llb.get_model("tiny"))["supported"] is False
    await llb.pull_model("other")


async def test_a_draft_model_is_named_and_taken_back_without_another_pull(
    make_llb: BalancerFactory, tmp_path: Path
) -> None:
    catalog = write_catalog(tmp_path / "c.json", TINY, OTHER)
    llb = await start_balancer(make_llb(catalog=catalog))
    await llb.pull_model("tiny")

    def draft_on_node() -> str | None:
        desired = llb.app.agent._replicas["tiny"].desired_model
        return None if desired is None else desired.draft

    assert draft_on_node() is None
    write_catalog(catalog, TINY | {"draft": "other"}, OTHER)
    await llb.app.reload()
    await wait_until(lambda: draft_on_node() == "other")
    write_catalog(catalog, TINY, OTHER)
    await llb.app.reload()
    await wait_until(lambda: draft_on_node() is None)


async def test_a_broken_catalogue_leaves_the_old_one_in_force(
    make_llb: BalancerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = write_catalog(tmp_path / "c.json", TINY)
    llb = await start_balancer(make_llb(catalog=catalog))
    catalog.write_text("[")
    with caplog.at_level(logging.ERROR):
        await llb.app.reload()
    assert "the catalogue in use stays" in caplog.text
    assert str(catalog) in caplog.text
    assert await model_ids(llb) == ["tiny"]


@pytest.fixture
def write_certificate(tmp_path: Path) -> Callable[[], tuple[str, dict[str, Path]]]:
    """Writes a new certificate with its key, and returns it with the settings that name the files."""
    paths = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}

    def write() -> tuple[str, dict[str, Path]]:
        pem = issue_certificate(create_authority(), ("localhost", "127.0.0.1"))[0].decode()
        key, marker, chain = pem.partition("-----BEGIN CERTIFICATE-----")
        certificate = marker + chain[: chain.index("-----BEGIN")]
        paths["tls_key"].write_text(key)
        paths["tls_cert"].write_text(certificate)
        return certificate, paths

    return write


async def test_a_new_certificate_serves_new_connections_and_the_old_ones_stay(
    make_llb: BalancerFactory,
    write_certificate: Callable[[], tuple[str, dict[str, Path]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, paths = write_certificate()
    llb = await start_balancer(make_llb(**paths))
    new, _ = write_certificate()
    async with llb.open_event_stream() as reader:
        await reader.recv()
        await llb.app.reload()
        assert (await reader.ping()) is not None
        assert await trusts(llb, new)
        assert not await trusts(llb, old)
        paths["tls_key"].write_text("broken")
        with caplog.at_level(logging.ERROR):
            await llb.app.reload()
        assert "the certificate in use stays" in caplog.text
        assert await trusts(llb, new)
        # The connection that was opened with the first certificate.
        await (await reader.ping())


async def trusts(llb: RunningBalancer, certificate: str) -> bool:
    """Whether a new connection is accepted by a client that trusts `certificate` alone."""
    context = tls_trust.get_client_context(certificate)
    try:
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as client:
            return (await client.get(f"{llb.url}/health")).status_code == 200
    except httpx.ConnectError:
        return False
