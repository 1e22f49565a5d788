"""Admission of nodes: a join token lets one host in, once, while it is valid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from llb import __version__
from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.join.node_admission import JOIN_TOKEN_TTL_S, NodeAdmission
from llb.cluster.node_membership import Members
from llb.cluster.view import ClusterView
from llb.errors import Conflict, InvalidJoinToken
from llb.store.database import Database
from llb.wire import PROTOCOL_VERSION, JoinRequest


class Cluster:
    """Admission to a cluster, and its members."""

    def __init__(self, db: Database) -> None:
        self.now = 1000.0
        view = ClusterView(load_catalog(None), EventBus(), lambda _repo: None)
        self.members = Members(db, view, clock=lambda: self.now)
        self.admission = NodeAdmission(db, self.members, clock=lambda: self.now)
        self.admission.start("here")

    async def request(self) -> JoinRequest:
        """Return what a host with a new token sends."""
        token = (await self.admission.create_join_token("admin")).token
        return JoinRequest(token=token, name="garage", protocol=PROTOCOL_VERSION, version=__version__)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    db = await Database.open(tmp_path / "llb.db")
    yield Cluster(db)
    await db.close()


async def test_a_host_gets_credentials_and_its_token_is_used_up(cluster: Cluster) -> None:
    request = await cluster.request()
    reply = await cluster.admission.admit_node(request)
    record = cluster.members.find_by_credential(reply.credential)
    assert record is not None
    assert (record.id, record.name, reply.cluster_id) == (reply.node_id, "garage", "here")
    assert record.hop_credential == reply.hop_credential != reply.credential
    with pytest.raises(InvalidJoinToken, match="already been used"):
        await cluster.admission.admit_node(request)
    assert cluster.members.list_node_ids() == (reply.node_id,)


async def test_a_token_ends(cluster: Cluster) -> None:
    early, late = await cluster.request(), await cluster.request()
    cluster.now += JOIN_TOKEN_TTL_S - 1
    await cluster.admission.admit_node(early)
    cluster.now += 1
    with pytest.raises(InvalidJoinToken, match="has expired"):
        await cluster.admission.admit_node(late)


async def test_who_is_refused_keeps_its_token(cluster: Cluster) -> None:
    request = await cluster.request()
    with pytest.raises(InvalidJoinToken, match="not known here"):
        await cluster.admission.admit_node(msgspec.structs.replace(request, token=request.token + "x"))
    with pytest.raises(Conflict, match="cannot join itself"):
        await cluster.admission.admit_node(msgspec.structs.replace(request, cluster_id="here"))
    with pytest.raises(Conflict) as refused:
        await cluster.admission.admit_node(msgspec.structs.replace(request, protocol=0))
    assert refused.value.code == "protocol_not_supported"
    assert cluster.members.list_node_ids() == ()
    await cluster.admission.admit_node(request)
