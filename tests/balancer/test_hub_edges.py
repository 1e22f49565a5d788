"""Pulls where the Hub answers only in part: its file host, a commit that is gone, and HF_HUB_OFFLINE."""

from __future__ import annotations

from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer
from tests.hub import HubStandIn, tiny_gguf


async def error_of(llb: RunningBalancer, text: str) -> str:
    """Wait until the replica of `tiny` reports this error; return the whole of it."""
    await llb.wait_until(lambda: text in str(llb.app.cluster.view.status_of("tiny").error))
    return str((await llb.get_model("tiny"))["error"])


async def test_the_file_host_is_named_and_awaited(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.stop_listening("cdn")
    assert (await llb.register_model("tiny")).status_code == 202
    error = await error_of(llb, "file host")
    assert error.startswith("waiting for the network: the file host of the Hub (127.0.0.1) cannot be reached")
    assert (await llb.get_model("tiny"))["status"] == "Downloading"
    hub.listen()
    await llb.wait_for_status("tiny", "Ready")


async def test_a_commit_that_is_gone_is_an_error_and_a_retry_takes_the_present_one(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    stalled = hub.faults.stall(after=100_000)
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) > 0)
    # The history of the repository is rewritten, and its file is another one.
    hub.remove_repo("test/tiny")
    hub.add_repo("test/tiny", {"tiny.gguf": tiny_gguf(TINY_BYTES, seed="rewritten")})
    # The connection is reset during the stall: afterwards the rest would arrive at once.
    hub.stop_listening()
    stalled.clear()
    hub.listen()
    await llb.wait_for_status("tiny", "Error")
    error = str((await llb.get_model("tiny"))["error"])
    assert "The Hub no longer has commit " in error
    assert "pull the model again" in error
    await llb.pull_model("tiny")


async def test_offline_says_so_and_imports_still_work(make_llb: BalancerFactory, hub: HubStandIn) -> None:
    llb = await make_llb(hub_offline=True).start()
    await llb.wait_until_online()
    assert (await llb.register_model("tiny")).status_code == 202
    assert "HF_HUB_OFFLINE is set" in await error_of(llb, "HF_HUB_OFFLINE")
    assert hub.requests == []
