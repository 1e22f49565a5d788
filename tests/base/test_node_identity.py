"""Membership of a host: private on disk, and an error where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from llb.base import node_identity
from llb.base.node_identity import NODE_FILE_NAME, Membership, read_membership
from llb.errors import SetupError

MEMBER = Membership(
    balancer_url="https://attic:8080",
    cluster_id="c",
    node_id="n",
    name="garage",
    credential="llbn-x",
    hop_credential="llbn-y",
    anchor="PEM",
)


def test_a_membership_is_read_back_and_private(tmp_path: Path) -> None:
    assert read_membership(tmp_path) is None
    node_identity.write_membership(tmp_path, MEMBER)
    assert read_membership(tmp_path) == MEMBER
    assert (tmp_path / NODE_FILE_NAME).stat().st_mode & 0o777 == 0o600
    node_identity.remove_membership(tmp_path)
    node_identity.remove_membership(tmp_path)
    assert read_membership(tmp_path) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"node_id": 5}', b"\xff"])
def test_a_broken_file_is_an_error_and_not_a_host_without_a_cluster(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NODE_FILE_NAME).write_bytes(content)
    with pytest.raises(SetupError) as broken:
        read_membership(tmp_path)
    assert str(tmp_path / NODE_FILE_NAME) in str(broken.value)


def test_a_file_of_an_older_version_without_an_anchor(tmp_path: Path) -> None:
    fields = {name: getattr(MEMBER, name) for name in MEMBER.__struct_fields__ if name != "anchor"}
    (tmp_path / NODE_FILE_NAME).write_bytes(msgspec.json.encode(fields))
    member = read_membership(tmp_path)
    assert member is not None
    assert member.anchor == ""
