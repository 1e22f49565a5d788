"""`llb chat` with a real server and a real engine, whose model generates random text without end."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.cli.conftest import CommandHost, create_host_with_models
from tests.hub import HubStandIn
from tests.processes import wait_until


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory, models_hub: HubStandIn) -> Iterator[CommandHost]:
    host = create_host_with_models(tmp_path_factory.mktemp("chatty"), models_hub)
    host.start_server()
    host.run_command("pull", "chat")
    yield host
    host.stop_server()


def test_one_answer(chatty: CommandHost) -> None:
    done = chatty.run_command("chat", "chat", "hello", "--max-tokens", "8")
    assert done.stdout.strip()
    assert done.stdout.endswith("\n")
    assert done.stderr == ""


def test_piped_input_is_the_prompt_or_follows_it(chatty: CommandHost) -> None:
    assert chatty.run_command("chat", "chat", "--max-tokens", "4", stdin="hello\n").stdout.strip()
    assert chatty.run_command("chat", "chat", "look:", "--max-tokens", "4", stdin="hello\n").stdout.strip()


def test_a_piped_prompt_that_is_too_long_is_refused_with_both_numbers(chatty: CommandHost) -> None:
    message = chatty.run_failing_command("chat", "chat", "look:", stdin="word " * 5000)
    assert "context length" in message
    assert sum(word.strip(".,").isdigit() for word in message.split()) == 2


def test_no_prompt(chatty: CommandHost) -> None:
    assert "There is no prompt" in chatty.run_failing_command("chat", "chat")
    assert "There is no prompt" in chatty.run_failing_command("chat", "chat", stdin="")


def test_at_a_terminal_the_speed_is_shown(chatty: CommandHost) -> None:
    with chatty.open_terminal("chat", "chat", "hello", "--max-tokens", "4") as terminal:
        assert terminal.wait() == 0
        assert "tokens/s" in terminal.output


def test_a_conversation(chatty: CommandHost) -> None:
    with chatty.open_terminal("chat", "chat", "--max-tokens", "4", "--system", "Be brief.") as terminal:
        terminal.expect("Ctrl-D or /bye exits")
        terminal.expect(">>> ")
        terminal.write("hello\n")
        terminal.expect("tokens/s")
        terminal.expect(">>> ")
        terminal.write("\n/clear\n")
        terminal.expect(">>> ")
        terminal.write("and again\n")
        terminal.expect("tokens/s")
        terminal.expect(">>> ")
        terminal.write("\x04")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.output


def test_bye_exits(chatty: CommandHost) -> None:
    with chatty.open_terminal("chat", "chat") as terminal:
        terminal.expect(">>> ")
        terminal.write("/bye\n")
        assert terminal.wait() == 0


def test_ctrl_c_stops_an_answer_and_not_the_conversation(chatty: CommandHost) -> None:
    with chatty.open_terminal("chat", "chat") as terminal:
        terminal.expect(">>> ")
        terminal.write("talk\n")
        terminal.expect("talk\r\n")
        while len(terminal.output) < terminal.output.find("talk\r\n") + 30:
            assert terminal._read(30)
        terminal.write("\x03")
        terminal.expect("(stopped)")
        terminal.expect(">>> ")
        # At the prompt it prints a hint. Python hears no signal between the prompt and its wait for input.
        wait_until(lambda: psutil.Process(terminal.process.pid).status() == psutil.STATUS_SLEEPING)
        terminal.write("\x03")
        terminal.expect("Ctrl-D or /bye exits")
        terminal.expect(">>> ")
        terminal.write("\x04")
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.output


def test_ctrl_c_ends_a_single_answer(chatty: CommandHost) -> None:
    with chatty.open_terminal("chat", "chat", "talk") as terminal:
        while len(terminal.output) < 20:
            assert terminal._read(30)
        terminal.write("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.output


def test_a_model_that_was_not_pulled(chatty: CommandHost) -> None:
    assert (
        chatty.run_failing_command("chat", "tiny", "hi")
        == "Model 'tiny' has not been pulled: 'llb pull tiny' does that."
    )


def test_a_model_that_is_still_downloading(chatty: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(30_000, repo="test/other")
    pulling = chatty.start_command("pull", "other")
    assert pulling.stdout is not None
    next(line for line in pulling.stdout if " % (" in line)
    message = chatty.run_failing_command("chat", "other", "hi")
    assert "still downloading (" in message
    assert "llb pull other" in message
    models_hub.faults.clear()
    assert pulling.communicate(timeout=30)[1] == ""


def test_a_key_for_inference_alone_may_chat(chatty: CommandHost) -> None:
    key = chatty.run_command("keys", "create", "talker", "--scope", "inference").stdout.strip()
    there = {"LLB_URL": chatty.url, "LLB_API_KEY": key}
    elsewhere = CommandHost(chatty.home.parent / "elsewhere", **there)
    assert elsewhere.run_command("chat", "chat", "hello", "--max-tokens", "4").stdout.strip()
    assert "models:read" in elsewhere.run_failing_command("models")


def test_a_model_that_the_engine_cannot_load(chatty: CommandHost) -> None:
    # The file is a header and noise: it can be downloaded, but not loaded.
    chatty.run_command("pull", "tiny")
    try:
        message = chatty.run_failing_command("chat", "tiny", "hi")
        assert message.startswith("Model 'tiny' cannot be used: its file ")
        remembered = chatty.run_failing_command("chat", "tiny", "hi")
        assert remembered.startswith("Model 'tiny' could not be pulled: its file ")
    finally:
        chatty.run_command("rm", "--yes", "tiny")


def test_loaded_shown_and_unloaded(chatty: CommandHost) -> None:
    assert "minimum" in chatty.run_command("show", "chat").stdout
    loaded = chatty.run_command("load", "chat", "--context", "512", "--slots", "1").stdout
    assert "chat is loaded" in loaded
    assert "(1 slot of 512 tokens)" in loaded
    row = chatty.run_command("ps").stdout.splitlines()[1]
    assert row.split()[:2] == ["chat", "attic"]
    assert chatty.run_json_command("ps")["engines"][0]["context_length"] == 512
    assert "unloaded" in chatty.run_command("unload", "chat").stdout
    assert "is not ready" in chatty.run_failing_command("load", "tiny")
    assert "did you mean chat?" in chatty.run_failing_command("show", "chatt")
