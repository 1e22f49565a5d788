"""`llb pull` follows a pull to its end, over cancellation, failure and restart."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.cli.conftest import DEADLINE_S, TINY_BYTES, CommandHost
from tests.hub import HubStandIn

# Bytes per second: the download takes five seconds.
SLOW = 60_000


@pytest.fixture
def own(with_models: CommandHost) -> CommandHost:
    with_models.start_server()
    return with_models


def test_a_pull_without_a_terminal_prints_lines(own: CommandHost) -> None:
    done = own.run_command("pull", "tiny")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    *steps, last = done.stdout.splitlines()
    assert last == "tiny is ready (300 kB): llb chat tiny"
    assert all(line.startswith("tiny: ") for line in steps)


def test_lines_come_at_every_tenth_at_most(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW * 2)
    steps = [line for line in own.run_command("pull", "tiny").stdout.splitlines() if " % (" in line]
    assert 2 <= len(steps) <= 11
    assert any("kB/s" in line for line in steps)
    assert len(set(steps)) == len(steps)


def test_at_a_terminal_there_is_a_bar_with_bytes_speed_and_time_left(
    own: CommandHost, models_hub: HubStandIn
) -> None:
    models_hub.faults.throttle(SLOW)
    with own.open_terminal("pull", "tiny") as terminal:
        for text in ("━", "of 300 kB", "kB/s, ", "s left"):
            terminal.expect(text)
        models_hub.faults.clear()
        terminal.expect("tiny is ready")
        assert terminal.wait() == 0


def test_a_pulled_model_is_ready_at_once(own: CommandHost) -> None:
    own.run_command("pull", "tiny")
    assert own.run_command("pull", "TINY").stdout == "tiny is ready (300 kB): llb chat tiny\n"


def test_two_follow_the_same_pull(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW)
    first, second = own.start_command("pull", "tiny"), own.start_command("pull", "tiny")
    for process in (first, second):
        assert process.stdout is not None
        process.stdout.readline()
    models_hub.faults.clear()
    for process in (first, second):
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        assert out.endswith("tiny is ready (300 kB): llb chat tiny\n")


def test_ctrl_c_leaves_the_pull_running_and_says_so(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW)
    with own.open_terminal("pull", "tiny") as terminal:
        terminal.expect("of 300 kB")
        terminal.write("\x03")
        assert terminal.wait() == 130
        assert "continues without this command; 'llb rm tiny' cancels it" in terminal.output
        assert "Traceback" not in terminal.output
    models_hub.faults.clear()
    assert "is ready" in own.run_command("pull", "tiny").stdout


def test_a_signal_does_the_same_without_a_terminal(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW)
    process = own.start_command("pull", "tiny")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "continues without this command" in err
    assert "Traceback" not in err


def test_a_pull_that_fails_says_why(own: CommandHost) -> None:
    message = own.run_failing_command("pull", "gated")
    assert message.startswith("The pull of gated failed: ")
    assert "licence" in message
    assert "gated: " in own.run_command("models", "--pulled").stderr
    assert "try again" in own.run_failing_command("chat", "gated", "hi")


def test_pulling_again_is_the_retry(own: CommandHost, models_hub: HubStandIn) -> None:
    own.run_failing_command("pull", "gated")
    models_hub.set_gated("test/gated", False)
    try:
        assert "gated is ready" in own.run_command("pull", "gated").stdout
    finally:
        models_hub.set_gated("test/gated", True)


def test_a_model_that_fits_nowhere_is_rejected_with_the_message_of_the_api(own: CommandHost) -> None:
    assert own.run_failing_command("pull", "giant").startswith(
        "Insufficient VRAM. Required: 16000GB, Available: "
    )


def test_a_cancelled_pull(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW)
    process = own.start_command("pull", "tiny")
    assert process.stdout is not None
    process.stdout.readline()
    assert "cancelled" in own.run_command("rm", "--yes", "tiny").stdout
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert err == "The pull of tiny was cancelled.\n"


def test_waiting_for_the_network_is_shown(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.fail(503)
    process = own.start_command("pull", "tiny")
    assert process.stdout is not None
    message = next(line for line in process.stdout if "waiting for the network" in line)
    assert message.startswith("tiny: ")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)


def test_a_pull_continues_after_a_restart_of_the_server(own: CommandHost, models_hub: HubStandIn) -> None:
    models_hub.faults.throttle(SLOW)
    process = own.start_command("pull", "tiny")
    assert process.stdout is not None
    lines_read: list[str] = []
    away, back = threading.Event(), threading.Event()

    def read_lines() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines_read.append(line)
            if "connection to llb lost" in line:
                away.set()
            elif " % (" in line:
                back.set()

    listening = threading.Thread(target=read_lines)
    listening.start()
    assert back.wait(DEADLINE_S)
    own.stop_server()
    assert away.wait(DEADLINE_S)
    before = own.url
    own.start_server()
    # The server has another port and is found again.
    assert own.url != before
    models_hub.faults.clear()
    assert process.wait(DEADLINE_S) == 0
    listening.join()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
    assert lines_read[-1] == "tiny is ready (300 kB): llb chat tiny\n"
    assert (own.home / "models" / "tiny" / "tiny.gguf").stat().st_size == TINY_BYTES
