"""Run of a client program against llb: its steps, and the requests that it sends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.clients.compatibility.agents import Agent
from tests.clients.compatibility.environments import ROOT, node_binary, node_folder, python_of, version_of
from tests.clients.compatibility.programs import Program
from tests.clients.compatibility.recorder import Recorder
from tests.clients.compatibility.recording import to_requests, write_recording
from tests.clients.compatibility.serving import (
    ANSWER,
    CHAT_MODEL,
    COMMAND_OUTPUT,
    EDITED_FILE,
    EMBEDDING_MODEL,
    SCRIPTED_MODEL,
)

DEADLINE_S = 400

StepResults = dict[str, str | None]


def run_library(program: Program, llb_url: str, key: str, directory: Path) -> StepResults:
    """Run the steps of a library; returns the error of each, or `None`. Writes the recording."""
    with Recorder(llb_url) as recorder:
        environment = {
            **clean_environment(directory),
            "PYTHONPATH": str(ROOT),
            "LLB_URL": recorder.url,
            "LLB_KEY": key,
            "LLB_CHAT_MODEL": CHAT_MODEL,
            "LLB_TOOL_MODEL": SCRIPTED_MODEL,
            "LLB_EMBEDDING_MODEL": EMBEDDING_MODEL,
            "LLB_ANSWER": ANSWER,
        }
        if program.entry.endswith(".mjs"):
            script = node_folder(program.environment) / program.entry
            command = [str(node_binary(program.environment)), str(script)]
        else:
            command = [str(python_of(program.environment)), "-m", f"tests.clients.{program.entry}"]
        done = subprocess.run(
            command, env=environment, cwd=directory, capture_output=True, text=True, timeout=DEADLINE_S
        )
    results: StepResults = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"step"'):
            result: dict[str, Any] = json.loads(line)
            results[result["step"]] = result["error"]
    if done.returncode or not results:
        results["start"] = done.stderr.strip().splitlines()[-1] if done.stderr else "no result"
    requests = to_requests(recorder.exchanges, {str(directory): "/home/user", recorder.url: "http://llb"})
    write_recording(program.name, version_of(program), requests)
    return results


def run_agent(agent: Agent, llb_url: str, key: str, home: Path) -> StepResults:
    """Run an agent once; returns the error of each step, or `None`. Writes the recording."""
    with Recorder(llb_url, step="run") as recorder:
        start = agent.prepare(recorder.url, key, home)
        log = home / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                start.command,
                env={**clean_environment(home), **start.environment},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                end_of_run = f"exit status {process.wait(DEADLINE_S)}"
            except subprocess.TimeoutExpired:
                end_of_run = f"still running after {DEADLINE_S} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(errors="replace")
    end = " ".join(text.split())[-300:]
    refused = [
        f"{exchange.method} {exchange.path}: {exchange.status} {exchange.answer.decode(errors='replace')}"
        for exchange in recorder.exchanges
        if exchange.method == "POST" and exchange.status >= 400
    ]
    sent = b"".join(exchange.body for exchange in recorder.exchanges)
    results: StepResults = {
        "requests_answered": ", ".join(refused) if refused or not sent else None,
        "clean_exit": None if end_of_run == "exit status 0" else f"{end_of_run}: {end}",
    }
    if agent.has_tools:
        # The model's answer is written only once the result of its call has come back.
        results["tool_call"] = None if COMMAND_OUTPUT.encode() in sent else "no result was sent back"
        results["final_answer"] = None if ANSWER in text else f"not in the output: {end}"
    else:
        edited = home / EDITED_FILE
        results["edit"] = (
            None
            if edited.exists() and edited.read_text().strip() == COMMAND_OUTPUT
            else f"not written: {end}"
        )
    program = agent.program
    requests = to_requests(recorder.exchanges, {str(home): "/home/user", recorder.url: "http://llb"})
    write_recording(program.name, version_of(program), requests)
    return results


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment with a home of its own, without proxies and settings of clients.

    Agents report the Git checkout that they run in: they find none above their home.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home), "GIT_CEILING_DIRECTORIES": str(home.parent)}
    return {**kept, **own, "NO_COLOR": "1"}
