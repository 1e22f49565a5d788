"""llb with the models that the client programs use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clients.models import write_scripted_model, write_tool_model
from tests.ggufs import write_embedding_model
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess

CHAT_MODEL = "smollm2"
SCRIPTED_MODEL = "scripted"
EDITOR_MODEL = "editor"
EMBEDDING_MODEL = "embed"
ANSWER = "The work is done."
# Output of the command of an agent, which the agent has to send back.
COMMAND_OUTPUT = "it-rains-in-Oslo"
# An edit in the form that aider calls `whole`.
EDITED_FILE = "weather.txt"
EDIT = f"{EDITED_FILE}\n```\n{COMMAND_OUTPUT}\n```"
# Prompts of agents with all their tools have up to 100,000 bytes, and a byte is a token.
CONTEXT = 131_072

_COMMAND = f"echo {COMMAND_OUTPUT}"
# The first that a request offers is called: `get_weather` of the libraries, the shell of each agent.
CALLS: dict[str, dict[str, Any]] = {
    "get_weather": {"city": "Oslo"},
    "Bash": {"command": _COMMAND},
    "bash": {"command": _COMMAND},
    "exec_command": {"cmd": _COMMAND},
    "shell_command": {"command": _COMMAND},
    "shell": {"command": ["sh", "-c", _COMMAND]},
    "execute": {"language": "shell", "code": _COMMAND},
}


@contextmanager
def serve_models(directory: Path, smollm2: Path | None) -> Iterator[tuple[LlbProcess, str]]:
    """Start llb with the scripted models, a model for embeddings and, with `smollm2`, a chat model.

    Yields the process and an API key.
    """
    files = {
        SCRIPTED_MODEL: write_scripted_model(directory / "scripted.gguf", CALLS, ANSWER, context=CONTEXT),
        EDITOR_MODEL: write_scripted_model(directory / "editor.gguf", {}, EDIT, context=CONTEXT),
        EMBEDDING_MODEL: write_embedding_model(directory / "embed.gguf"),
    }
    if smollm2 is not None:
        files[CHAT_MODEL] = write_tool_model(directory / "smollm2.gguf", smollm2)
    settings: dict[str, dict[str, Any]] = {
        EMBEDDING_MODEL: {"capabilities": ["Embedding"]},
        CHAT_MODEL: {"required_memory_bytes": 300_000_000, "context_length": 8192},
        SCRIPTED_MODEL: {"required_memory_bytes": 300_000_000, "context_length": CONTEXT},
        EDITOR_MODEL: {"required_memory_bytes": 300_000_000, "context_length": CONTEXT},
    }
    catalog = write_catalog(
        directory / "catalog.json",
        *(
            {"id": model_id, "size_bytes": path.stat().st_size, **settings[model_id]}
            for model_id, path in files.items()
        ),
    )
    with HubStandIn() as hub:
        for model_id, path in files.items():
            hub.add_repo(f"test/{model_id}", {f"{model_id}.gguf": path})
        flags = ("--catalog", str(catalog), "--context", str(CONTEXT))
        with LlbProcess(
            directory / "home", *flags, HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD="good enough"
        ) as llb:
            for model_id in files:
                assert llb.register_model(model_id).status_code == 202
            for model_id in files:
                llb.wait_for_status(model_id, "Ready")
            key = llb.http.post("/api/keys", json={"name": "client", "scopes": ["inference"]})
            yield llb, str(key.raise_for_status().json()["key"])
