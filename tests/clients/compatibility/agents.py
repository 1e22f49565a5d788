"""Agent programs: how each is pointed at llb and asked for one thing, as a person would in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.clients.compatibility.environments import CACHE, node_binary, node_folder, python_of
from tests.clients.compatibility.programs import AGENTS, Program
from tests.clients.compatibility.serving import EDITOR_MODEL, SCRIPTED_MODEL

REQUEST = "Use your shell to find out whether it rains in Oslo."


@dataclass(frozen=True)
class Start:
    """Command and environment of an agent that is asked for one thing and then ends."""

    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class Agent:
    """A program, what starts it in a folder, and whether it calls tools or edits files."""

    program: Program
    prepare: Callable[[str, str, Path], Start]
    has_tools: bool = True


def prepare_claude_code(url: str, key: str, folder: Path) -> Start:
    """Claude Code, with its own settings for other servers and without telemetry and updates."""
    return Start(
        [
            _node_package("@anthropic-ai/claude-code-linux-x64/claude"),
            "--print",
            REQUEST,
            "--allowedTools",
            "Bash",
        ],
        {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": key,
            "ANTHROPIC_MODEL": SCRIPTED_MODEL,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": SCRIPTED_MODEL,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    )


def prepare_codex(url: str, key: str, folder: Path) -> Start:
    """Codex, with llb as a provider of its configuration."""
    settings = folder / ".codex"
    settings.mkdir()
    (settings / "config.toml").write_text(
        f'model = "{SCRIPTED_MODEL}"\n'
        'model_provider = "llb"\n'
        "[model_providers.llb]\n"
        f'name = "llb"\nbase_url = "{url}/v1"\nenv_key = "LLB_API_KEY"\nwire_api = "responses"\n'
        "[analytics]\nenabled = false\n"
    )
    program = _node_package("@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex")
    return Start(
        [program, "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", REQUEST],
        {"CODEX_HOME": str(settings), "LLB_API_KEY": key},
    )


def prepare_opencode(url: str, key: str, folder: Path) -> Start:
    """opencode, with llb as a provider of its configuration."""
    settings = {
        "model": f"llb/{SCRIPTED_MODEL}",
        "small_model": f"llb/{SCRIPTED_MODEL}",
        "autoupdate": False,
        "share": "disabled",
        "provider": {
            "llb": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "llb",
                "options": {"baseURL": f"{url}/v1", "apiKey": key},
                "models": {
                    SCRIPTED_MODEL: {"tool_call": True, "limit": {"context": 100_000, "output": 4000}}
                },
            }
        },
    }
    (folder / "opencode.json").write_text(json.dumps(settings))
    return Start(
        [_node_package("opencode-linux-x64/bin/opencode"), "run", REQUEST],
        {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
    )


def prepare_continue(url: str, key: str, folder: Path) -> Start:
    """Continue in the terminal, with the configuration that its editors read too."""
    (folder / "config.yaml").write_text(
        "name: llb\nversion: 1.0.0\nschema: v1\nmodels:\n"
        f"  - name: llb\n    provider: openai\n    model: {SCRIPTED_MODEL}\n"
        f"    apiBase: {url}/v1\n    apiKey: {key}\n    capabilities: [tool_use]\n"
    )
    return Start(
        [
            str(node_binary("agents")),
            _node_package("@continuedev/cli/dist/cn.js"),
            "--config",
            "config.yaml",
            "--auto",
            "--print",
            REQUEST,
        ],
        {"CONTINUE_CLI_ENABLE_TELEMETRY": "0", "CONTINUE_METRICS_ENABLED": "0"},
    )


def prepare_aider(url: str, key: str, folder: Path) -> Start:
    """aider, which asks for whole files and writes them."""
    command = [str(CACHE / "python" / "aider" / "bin" / "aider"), "--model", f"openai/{EDITOR_MODEL}"]
    flags = "--no-git --yes-always --analytics-disable --no-check-update --no-show-model-warnings"
    return Start(
        [
            *command,
            *flags.split(),
            "--edit-format",
            "whole",
            "--message",
            "Write the weather.",
            "weather.txt",
        ],
        {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": key},
    )


def prepare_open_interpreter(url: str, key: str, folder: Path) -> Start:
    """Open Interpreter, through its Python interface: its terminal needs a person."""
    return Start(
        [str(python_of("open-interpreter")), str(AGENTS / "open_interpreter.py"), REQUEST],
        {"LLB_URL": url, "LLB_KEY": key, "LLB_MODEL": SCRIPTED_MODEL},
    )


def _node_package(path: str) -> str:
    return str(node_folder("agents") / "node_modules" / path)


def _program(name: str, package: str, environment: str, dialect: str) -> Program:
    return Program(name, (package,), environment, "", dialect)


AGENT_PROGRAMS = (
    Agent(
        _program("claude-code", "@anthropic-ai/claude-code", "agents", "Anthropic"),
        prepare_claude_code,
    ),
    Agent(_program("codex", "@openai/codex", "agents", "OpenAI Responses"), prepare_codex),
    Agent(_program("opencode", "opencode-ai", "agents", "OpenAI"), prepare_opencode),
    Agent(_program("continue", "@continuedev/cli", "agents", "OpenAI"), prepare_continue),
    Agent(_program("aider", "aider-chat", "aider", "OpenAI"), prepare_aider, has_tools=False),
    Agent(
        _program("open-interpreter", "open-interpreter", "open-interpreter", "OpenAI"),
        prepare_open_interpreter,
    ),
)
