"""models, nodes, rm, import: against the real server."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import TINY_BYTES, Host
from tests.hub import HubStandIn, tiny_gguf


@pytest.fixture
def own(with_models: Host) -> Host:
    with_models.start()
    return with_models


def test_a_table_for_pipes_is_plain_and_whole(served: Host) -> None:
    shown = served.run("models").stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["ID", "NAME", "SIZE", "MEMORY", "STATUS", "FIT"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny", "other", "chat", "gated", "giant"]
    assert "Tiny [bold]model[/]" in lines[1]  # not a command to the terminal's painter
    assert "300.0 kB" in lines[1] or "300 kB" in lines[1]
    assert lines[5].endswith("too large")
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in lines)


def test_at_a_terminal_there_are_colours(served: Host) -> None:
    with served.terminal("models") as terminal:
        assert terminal.wait() == 0
        assert "\x1b[" in terminal.seen
        assert "too large" in terminal.seen


def test_models_can_be_narrowed_down(served: Host) -> None:
    assert [item["model"]["id"] for item in served.json("models", "tin")["models"]] == ["tiny"]
    assert "No model matches" in served.run("models", "nothing", "like", "it").stderr


def test_json_is_the_apis_own(served: Host) -> None:
    key = served.run("keys", "create", "reader", "--scope", "admin").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    theirs = httpx.get(f"{served.url}/api/models", headers=headers, trust_env=False).json()
    ours = served.json("models")
    for item in (*theirs["models"], *ours["models"]):
        item["hf_stats"] = None  # may arrive between the two questions
    assert ours == theirs


def test_nodes(served: Host) -> None:
    [node] = served.json("nodes")["nodes"]
    assert (node["name"], node["status"]) == ("attic", "online")
    assert served.run("nodes").stdout.splitlines()[1].split()[:4] == ["attic", "online", "this", "host"]


def test_an_unknown_model_is_told_with_those_that_are_nearly_so(served: Host) -> None:
    for command in (("rm", "tinny"), ("chat", "tinny", "hi"), ("pull", "tinny")):
        assert served.fail(*command) == "There is no model 'tinny': did you mean tiny?"
    assert "'llb models' lists" in served.fail("pull", "zzzzzz")


def test_pulled_listed_and_removed(own: Host) -> None:
    assert "No model was pulled yet" in own.run("models", "--pulled").stderr
    assert "nothing to remove" in own.fail("rm", "tiny")
    own.run("pull", "tiny")
    path = own.home / "models" / "tiny" / "tiny.gguf"
    assert path.stat().st_size == TINY_BYTES
    [item] = own.json("models", "--pulled")["models"]
    assert (item["model"]["id"], item["status"]) == ("tiny", "Ready")
    assert own.run("rm", "TINY").stdout == "tiny is removed.\n"
    assert own.json("models", "--pulled")["models"] == []


def test_removing_asks_at_a_terminal(own: Host) -> None:
    own.run("pull", "tiny")
    for typed, status, left in (("\n", 1, 1), ("yes\n", 0, 0)):
        with own.terminal("rm", "tiny") as terminal:
            terminal.expect("Remove tiny from every node? [y/N] ")
            terminal.write(typed)
            assert terminal.wait() == status
        assert len(own.json("models", "--pulled")["models"]) == left


def test_a_file_of_this_host_is_adopted_and_not_fetched(
    own: Host, models_hub: HubStandIn, tmp_path: Path
) -> None:
    mine = tmp_path / "tiny.gguf"
    mine.write_bytes(tiny_gguf(TINY_BYTES))
    models_hub.forget_requests()
    assert "adopted as tiny" in own.run("import", os.path.relpath(mine, Path(__file__).parents[2])).stdout
    own.run("pull", "tiny")
    assert models_hub.byte_requests("tiny.gguf") == []
    assert mine.read_bytes() == tiny_gguf(TINY_BYTES)


def test_what_cannot_be_adopted(own: Host, tmp_path: Path) -> None:
    wrong = tmp_path / "tiny.gguf"
    wrong.write_bytes(tiny_gguf(TINY_BYTES, seed="another"))
    assert "sha256" in own.fail("import", str(wrong))
    unnamed = tmp_path / "what.gguf"
    unnamed.write_bytes(tiny_gguf(TINY_BYTES))
    assert "--model" in own.fail("import", str(unnamed))
    assert "no file" in own.fail("import", str(tmp_path / "none.gguf"))
    own.run("import", str(unnamed), "--model", "tiny", status=None)
    own.run("pull", "tiny")
