"""`llb models`, `nodes`, `rm` and `import` with a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest
from msgspec import structs

from llb.cli import output
from llb.cli.models import _print_fit, _similar_ids
from llb.wire import DraftFit, DraftState, FitReport, HostFit, Speculation
from tests.cli.conftest import TINY_BYTES, CommandHost
from tests.hub import HubStandIn, tiny_gguf


@pytest.fixture
def own(with_models: CommandHost) -> CommandHost:
    with_models.start_server()
    return with_models


def test_a_table_for_pipes_is_plain_and_whole(served: CommandHost) -> None:
    shown = served.run_command("models").stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["ID", "NAME", "SIZE", "MEMORY", "STATUS", "FIT"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny", "other", "chat", "gated", "giant"]
    # Not interpreted as markup of Rich.
    assert "Tiny [bold]model[/]" in lines[1]
    assert "300 kB" in lines[1]
    assert lines[5].endswith("too large")
    assert "\x1b" not in shown
    assert all(line == line.rstrip() for line in lines)


def test_at_a_terminal_there_are_colours(served: CommandHost) -> None:
    with served.open_terminal("models") as terminal:
        assert terminal.wait() == 0
        assert "\x1b[" in terminal.output
        assert "too large" in terminal.output


def test_models_can_be_narrowed_down(served: CommandHost) -> None:
    assert [item["model"]["id"] for item in served.run_json_command("models", "tin")["models"]] == ["tiny"]
    assert "No model matches" in served.run_command("models", "nothing", "like", "it").stderr


def test_json_equals_the_response_of_the_api(served: CommandHost) -> None:
    key = served.run_command("keys", "create", "reader", "--scope", "admin").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    theirs = httpx.get(f"{served.url}/api/models", headers=headers, trust_env=False, timeout=60).json()
    ours = served.run_json_command("models")
    for item in (*theirs["models"], *ours["models"]):
        # It may arrive between the two requests.
        item["hf_stats"] = None
    assert ours == theirs


def test_nodes(served: CommandHost) -> None:
    [node] = served.run_json_command("nodes")["nodes"]
    assert (node["name"], node["status"]) == ("attic", "online")
    assert served.run_command("nodes").stdout.splitlines()[1].split()[:4] == [
        "attic",
        "online",
        "this",
        "host",
    ]


def test_an_unknown_model_is_reported_with_similar_ids(served: CommandHost) -> None:
    for command in (("rm", "tinny"), ("chat", "tinny", "hi"), ("pull", "tinny")):
        assert served.run_failing_command(*command) == "There is no model 'tinny': did you mean tiny?"
    assert "'llb models' lists" in served.run_failing_command("pull", "zzzzzz")
    assert served.run_failing_command("chat", "box/tiny", "hi") == "Model 'box/tiny' does not exist."


def test_pulled_listed_and_removed(own: CommandHost) -> None:
    assert "No model was pulled yet" in own.run_command("models", "--pulled").stderr
    assert "nothing to remove" in own.run_failing_command("rm", "tiny")
    own.run_command("pull", "tiny")
    path = own.home / "models" / "tiny" / "tiny.gguf"
    assert path.stat().st_size == TINY_BYTES
    [item] = own.run_json_command("models", "--pulled")["models"]
    assert (item["model"]["id"], item["status"]) == ("tiny", "Ready")
    listed = own.run_command("models", "--pulled")
    [heading, line] = listed.stdout.splitlines()
    assert "ON DISK" in heading
    assert "never" in line
    assert output.format_size(TINY_BYTES) in listed.stderr
    assert "There is no model 'nosuch'" in own.run_failing_command("rm", "--yes", "tiny", "nosuch")
    assert path.exists()
    assert own.run_command("rm", "--yes", "TINY").stdout == "tiny was removed.\n"
    assert own.run_json_command("models", "--pulled")["models"] == []


def test_removing_asks_at_a_terminal(own: CommandHost) -> None:
    own.run_command("pull", "tiny")
    for typed, status, left in (("\n", 1, 1), ("yes\n", 0, 0)):
        with own.open_terminal("rm", "tiny") as terminal:
            terminal.expect("Remove tiny from every node? [y/N] ")
            terminal.write(typed)
            assert terminal.wait() == status
        assert len(own.run_json_command("models", "--pulled")["models"]) == left


def test_a_file_of_this_host_is_imported_and_not_downloaded(
    own: CommandHost, models_hub: HubStandIn, tmp_path: Path
) -> None:
    mine = tmp_path / "tiny.gguf"
    mine.write_bytes(tiny_gguf(TINY_BYTES))
    models_hub.clear_requests()
    assert (
        "imported as tiny"
        in own.run_command("import", os.path.relpath(mine, Path(__file__).parents[2])).stdout
    )
    own.run_command("pull", "tiny")
    assert models_hub.byte_requests("tiny.gguf") == []
    assert mine.read_bytes() == tiny_gguf(TINY_BYTES)


def test_files_that_cannot_be_imported(own: CommandHost, tmp_path: Path) -> None:
    wrong = tmp_path / "tiny.gguf"
    wrong.write_bytes(tiny_gguf(TINY_BYTES, seed="another"))
    assert "SHA-256" in own.run_failing_command("import", str(wrong))
    unnamed = tmp_path / "what.gguf"
    unnamed.write_bytes(tiny_gguf(TINY_BYTES))
    assert "--model" in own.run_failing_command("import", str(unnamed))
    assert "no file" in own.run_failing_command("import", str(tmp_path / "none.gguf"))
    own.run_command("import", str(unnamed), "--model", "tiny", expected_status=None)
    own.run_command("pull", "tiny")


def test_the_fit_of_a_file_and_of_a_model(served: CommandHost, chat_gguf: Path) -> None:
    shown = served.run_command("fit", str(chat_gguf), "--vram", "8GB", "--ram", "16GB", "--slots", "2")
    lines = shown.stdout.splitlines()
    assert lines[0] == "chat.gguf fits: 2 slots of 512 tokens."
    assert [line.split()[0] for line in lines[2:5]] == ["WHERE", "GPU0", "RAM"]
    cards = "8 GB: 512 tokens, 16 GB: 512 tokens, 24 GB: 512 tokens"
    assert lines[5:] == ["", f"On one GPU, one conversation gets: {cards}."]
    described = served.run_command("fit", "chat", "--ram", "1MB", expected_status=1).stdout
    assert described.startswith("chat does not fit.\nWith the shortest context")
    report = json.loads(served.run_command("fit", "chat", "--context", "256", "--json").stdout)
    assert (report["model"], report["fits"], report["context_length"]) == ("chat", True, 256)
    assert [card["vram_gb"] for card in report["cards"]] == [8, 16, 24]


def test_a_fit_tells_what_is_for_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    fit = FitReport(
        model="big",
        fits=True,
        reason=None,
        context_length=512,
        slots=1,
        host=HostFit(total_bytes=3_000_000_000),
        devices=(),
        draft=DraftFit(model_id="small", state=DraftState.USED, total_bytes=1_000_000_000),
    )
    _print_fit(fit)
    own = DraftFit(
        model_id="big", state=DraftState.USED, speculation=Speculation.MTP, total_bytes=2_000_000_000
    )
    _print_fit(structs.replace(fit, draft=own))
    lines = capsys.readouterr().out.splitlines()
    assert "Of this, 1 GB are for drafts by small." in lines
    assert "Of this, 2 GB are for drafts by the model itself." in lines


def test_a_fit_that_cannot_be_told(served: CommandHost, tmp_path: Path) -> None:
    missing = served.run_command("fit", str(tmp_path / "no.gguf"), expected_status=1)
    assert "cannot be read: No such file" in missing.stderr
    (tmp_path / "page.gguf").write_bytes(b"<html>" * 10)
    assert (
        "cannot be used" in served.run_command("fit", str(tmp_path / "page.gguf"), expected_status=1).stderr
    )
    assert "There is no model 'chap'" in served.run_command("fit", "chap", expected_status=1).stderr
    assert "is not a size" in served.run_command("fit", "chat", "--vram", "much", expected_status=2).stderr


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("llama3.2", ["llama-3.2-1b", "llama-3.2-3b-instruct"]),
        ("qwen3", ["qwen3-4b", "qwen3-0.6b"]),
        ("quen3-4b", ["qwen3-4b"]),
        ("4b", ["qwen3-4b"]),
        ("--", []),
    ],
)
def test_ids_that_begin_alike_come_first(wanted: str, expected: list[str]) -> None:
    ids = ["llama-3.2-1b", "llama3.3-70b", "llama-3.2-3b-instruct", "qwen3-4b", "qwen3-0.6b"]
    assert _similar_ids(wanted, ids)[: len(expected)] == expected
