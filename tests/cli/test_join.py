"""Joining with the command line: sources of the token, commands on a joined host, leaving."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llb.base import runfile
from tests.cli.conftest import DEADLINE_S, CommandHost, create_host_with_models
from tests.cli.host.test_doctor import findings, only
from tests.hub import HubStandIn
from tests.processes import wait_until

NO_TOKEN = "llbj-of-nobody"


@pytest.fixture
def attic(tmp_path: Path, models_hub: HubStandIn) -> Iterator[CommandHost]:
    """Running balancer."""
    command_host = create_host_with_models(tmp_path, models_hub)
    command_host.start_server()
    yield command_host
    command_host.stop_server()


@pytest.fixture
def garage(tmp_path: Path, models_hub: HubStandIn) -> Iterator[CommandHost]:
    """Another host; its server is not started."""
    (tmp_path / "other").mkdir()
    command_host = CommandHost(
        tmp_path / "other" / "home", HF_ENDPOINT=models_hub.url, LLB_NODE_NAME="garage"
    )
    yield command_host
    command_host.stop_server()


def new_token(balancer: CommandHost) -> str:
    return str(balancer.run_json_command("join-token")["token"])


def nodes(balancer: CommandHost) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in balancer.run_json_command("nodes")["nodes"]}


def join(host: CommandHost, balancer: CommandHost, **options: Any) -> None:
    """Start `host` as a node of `balancer`, with the token in the environment."""
    host.env["LLB_JOIN_TOKEN"] = new_token(balancer)
    host.start_server("--host", "127.0.0.1", "--join", balancer.url, **options)
    del host.env["LLB_JOIN_TOKEN"]


# --- the token ---------------------------------------------------------------------------------------


def test_the_command_alone_is_on_standard_output(attic: CommandHost) -> None:
    done = attic.run_command("join-token")
    assert re.fullmatch(rf"\./install\.sh run --join {attic.url} --token llbj-\S+\n", done.stdout)
    assert "once, within the hour" in done.stderr
    assert "listens on loopback only" in done.stderr


def test_a_token_in_the_environment_is_neither_stored_nor_logged(
    attic: CommandHost, garage: CommandHost
) -> None:
    token = new_token(attic)
    garage.env |= {"LLB_JOIN_TOKEN": token, "LLB_LOG_LEVEL": "debug"}
    garage.start_server("--host", "127.0.0.1", "--join", attic.url)
    assert nodes(attic)["garage"]["status"] == "online"
    member = garage.home / "node.json"
    assert stat.S_IMODE(member.stat().st_mode) == 0o600
    secrets = [
        token,
        json.loads(member.read_text())["credential"],
        json.loads(member.read_text())["hop_credential"],
    ]
    garage.run_command("leave")
    wait_until(lambda: not member.exists())
    garage.stop_server()
    attic.stop_server()
    for host in (attic, garage):
        log = (host.home.parent / "server.log").read_text()
        assert not [secret for secret in secrets if secret in log]
    for file in (*garage.home.iterdir(), *attic.home.glob("llb.db*")):
        if file.is_file():
            assert token.encode() not in file.read_bytes(), file
    assert secrets[1].encode() not in (attic.home / "llb.db").read_bytes()


def test_a_token_on_standard_input(attic: CommandHost, garage: CommandHost) -> None:
    assert garage.run_failing_command("--join", attic.url, "--token", "-", stdin=f"{NO_TOKEN}\n").startswith(
        "The join token is not known here"
    )
    assert "A token is needed" in garage.run_failing_command("--join", attic.url, "--token", "-", stdin="")
    assert "A token is needed" in garage.run_failing_command("--join", attic.url, stdin="")


def test_a_token_at_a_prompt(attic: CommandHost, garage: CommandHost) -> None:
    token = new_token(attic)
    with garage.open_terminal("--port", "0", "--host", "127.0.0.1", "--join", attic.url) as terminal:
        terminal.expect("Join token: ")
        terminal.write(f"{token}\n")
        terminal.expect(f"This host has joined {attic.url} as garage")
        terminal.write("\x03")
        assert terminal.wait() == 0
        assert token not in terminal.output
    # The host has joined already, so there is no prompt.
    with garage.open_terminal("--port", "0", "--host", "127.0.0.1") as terminal:
        terminal.expect("This host has joined")
        terminal.write("\x03")
        assert terminal.wait() == 0
        assert "Join token" not in terminal.output


def test_a_prompt_without_an_answer(attic: CommandHost, garage: CommandHost) -> None:
    with garage.open_terminal("--port", "0", "--join", attic.url) as terminal:
        terminal.expect("Join token: ")
        terminal.write("\x04")
        assert terminal.wait() == 1
        assert "No token was given; nothing was changed." in terminal.output
    with garage.open_terminal("--port", "0", "--join", attic.url) as terminal:
        terminal.expect("Join token: ")
        terminal.write("\x03")
        assert terminal.wait() == 130


def test_errors_at_the_start_are_one_sentence_and_status_1(attic: CommandHost, garage: CommandHost) -> None:
    at = ("--port", "0", "--token", NO_TOKEN)
    done = garage.run_command(*at, "--join", attic.url, expected_status=1)
    assert done.stdout == ""
    assert (
        done.stderr == "The join token is not known here: make one with 'llb join-token' on the balancer.\n"
    )
    done = garage.run_command(*at, "--join", "http://127.0.0.1:9", expected_status=1)
    assert done.stderr.startswith("The llb at http://127.0.0.1:9 cannot be reached (connection refused)")
    assert done.stderr.count("\n") == 1
    for url in (
        "attic:8080",
        "ftp://attic",
        "http://a:b@attic",
        "http://attic/page",
        "http://attic?x",
        "http://attic:x",
    ):
        assert (
            "is not the address of an llb, such as http://host:8080"
            in garage.run_command("--join", url, expected_status=2).stderr
        )


def test_the_default_password_lets_no_host_in(garage: CommandHost) -> None:
    garage.start_server()
    assert garage.run_failing_command("join-token").startswith("Change the default password first")


# --- a joined host -----------------------------------------------------------------------------------


def test_commands_on_a_joined_host_name_the_balancer(attic: CommandHost, garage: CommandHost) -> None:
    join(garage, attic)
    for command in (
        ("import", __file__),
        ("keys", "create", "x"),
        ("keys",),
        ("users",),
        ("password",),
    ):
        message = garage.run_failing_command(*command, stdin="a good password\n")
        assert message == (
            f"This host has joined {attic.url}, which has the keys and users: run this command there."
        )
    for command in (
        ("models",),
        ("pull", "tiny"),
        ("rm", "tiny"),
        ("nodes",),
        ("chat", "tiny", "x"),
        ("join-token",),
    ):
        assert "export LLB_API_KEY=sk-" in garage.run_failing_command(*command)
    key = attic.run_command("keys", "create", "laptop", "--scope", "admin").stdout.strip()
    with_key = {"LLB_API_KEY": key}
    assert "garage" in garage.run_command("nodes", env=with_key).stdout
    assert "tiny" in garage.run_command("models", "--key", key).stdout
    assert garage.run_failing_command("models", "--url", garage.url, "--key", key) == (
        f"{garage.url} redirects to {attic.url}: if it has joined that llb, use --url {attic.url}."
    )
    garage.stop_server()
    assert "garage" in garage.run_command("nodes", env=with_key).stdout


def test_the_doctor_shows_the_balancer_and_the_state_of_the_link(
    attic: CommandHost, garage: CommandHost
) -> None:
    found = findings(garage, "--port", "0", "--join", "http://127.0.0.1:9", status=1)
    assert "Nothing answers at http://127.0.0.1:9" in only(found, "membership", "bad")["detail"]
    found = findings(garage, "--port", "0", "--join", attic.url)
    assert "joins it with a token" in only(found, "membership", "ok")["detail"]
    join(garage, attic)
    attic.run_command("pull", "tiny")
    wait_until(lambda: len(nodes(attic)["garage"]["replicas"]) == 1, DEADLINE_S)
    wait_until(lambda: nodes(attic)["garage"]["replicas"][0]["state"] == "ready", DEADLINE_S)
    found = findings(garage)
    assert only(found, "membership", "ok")["detail"] == f"has joined {attic.url} as garage; connected"
    assert "runs at" in only(found, "server", "ok")["detail"]
    assert "1 of 1" in only(found, "model files", "ok")["detail"]
    assert "accounts" not in found
    (garage.home / "node.json").chmod(0o644)
    attic.stop_server()
    wait_until(lambda: "the balancer cannot be reached" in str(membership_findings(garage)), DEADLINE_S)
    readable_file, link = membership_findings(garage)
    assert readable_file["remedy"] == f"chmod 600 {garage.home / 'node.json'}"
    assert "the balancer cannot be reached" in link["detail"]
    garage.stop_server()
    assert "Nothing answers at" in membership_findings(garage)[1]["detail"]


def membership_findings(host: CommandHost) -> list[dict[str, Any]]:
    report = json.loads(host.run_command("doctor", "--port", "0", "--json", expected_status=None).stdout)
    return [finding for finding in report["findings"] if finding["check"] == "membership"]


def test_an_invalid_membership_file(garage: CommandHost) -> None:
    garage.home.mkdir()
    (garage.home / "node.json").write_text("{}")
    for command in ((), ("models",), ("leave",)):
        message = garage.run_failing_command(*command)
        assert message.startswith(f"{garage.home / 'node.json'} cannot be read")
        assert "remove it to run this host on its own" in message


# --- leaving -----------------------------------------------------------------------------------------


def standalone_server(host: CommandHost) -> runfile.RunInfo | None:
    """Server of the host once it has left the cluster."""
    info = runfile.find_running_server(host.home)
    return info if info is not None and not (host.home / "node.json").exists() else None


def test_a_running_server_continues_alone_with_its_own_accounts(
    attic: CommandHost, garage: CommandHost, models_hub: HubStandIn
) -> None:
    # Before it joined, the host had an account, a key and a model of its own.
    garage.env["LLB_ADMIN_PASSWORD"] = "another good password"
    garage.env["LLB_CATALOG"] = attic.env["LLB_CATALOG"]
    garage.start_server()
    key = garage.run_command("keys", "create", "mine", "--scope", "admin").stdout.strip()
    garage.run_command("pull", "other")
    garage.stop_server()
    join(garage, attic)
    attic.run_command("pull", "tiny")
    wait_until((garage.home / "models" / "tiny" / "tiny.gguf").exists, DEADLINE_S)
    previous = runfile.find_running_server(garage.home)
    done = garage.run_command("leave")
    assert done.stdout == f"This host has left {attic.url}; its model files stay.\n"
    assert done.stderr == ""
    assert "garage" not in nodes(attic)
    wait_until(lambda: standalone_server(garage) not in (None, previous), DEADLINE_S)
    assert (garage.home / "models" / "tiny" / "tiny.gguf").is_file()
    shown = {model["model"]["id"]: model for model in garage.run_json_command("models")["models"]}
    assert (shown["other"]["status"], shown["tiny"]["status"]) == ("Ready", "Available")
    assert key[:10] in garage.run_command("keys").stdout
    models_hub.clear_requests()
    garage.run_command("pull", "tiny")
    # The file is still there.
    assert models_hub.byte_requests() == []
    assert "has not joined" in garage.run_failing_command("leave")
    # The host can join again.
    garage.stop_server()
    join(garage, attic)
    assert nodes(attic)["garage"]["status"] == "online"


def test_leaving_without_a_server(attic: CommandHost, garage: CommandHost) -> None:
    join(garage, attic)
    garage.stop_server()
    assert garage.run_command("leave").stderr == ""
    assert "garage" not in nodes(attic)
    assert "has not joined" in garage.run_failing_command("leave")


@pytest.mark.parametrize("running", [True, False])
def test_leaving_while_the_balancer_is_down(attic: CommandHost, garage: CommandHost, running: bool) -> None:
    join(garage, attic)
    attic.stop_server()
    if not running:
        garage.stop_server()
    done = garage.run_command("leave")
    assert done.stderr == (
        "The balancer could not be notified (connection refused): remove the node garage there.\n"
    )
    if running:
        wait_until(lambda: standalone_server(garage), DEADLINE_S)
    assert not (garage.home / "node.json").exists()
