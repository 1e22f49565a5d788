"""Open WebUI: its server, with llb as its only connection, asked as its page asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL

START_DEADLINE_S = 120
QUESTION = [{"role": "user", "content": steps.QUESTION}]


class OpenWebui:
    """The running server. `ask` sends a request of its page."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            "DATA_DIR": str(Path.cwd() / "data"),
            "WEBUI_AUTH": "false",
            "ENABLE_OLLAMA_API": "false",
            "OPENAI_API_BASE_URL": f"{steps.URL}/v1",
            "OPENAI_API_KEY": steps.KEY,
            "RAG_EMBEDDING_ENGINE": "openai",
            "RAG_OPENAI_API_BASE_URL": f"{steps.URL}/v1",
            "RAG_OPENAI_API_KEY": steps.KEY,
            "RAG_EMBEDDING_MODEL": EMBEDDING_MODEL,
            "OFFLINE_MODE": "true",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "ANONYMIZED_TELEMETRY": "false",
            "DO_NOT_TRACK": "true",
            "SCARF_NO_ANALYTICS": "true",
        }
        program = Path(sys.executable).with_name("open-webui")
        with Path("open-webui.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        self._wait()
        self._token = ""
        self._token = str(self.ask("/api/v1/auths/signin", {"email": "", "password": ""})["token"])

    def _wait(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, Path("open-webui.log").read_text()[-2000:]
            try:
                self.ask("/health")
            except urllib.error.URLError:
                time.sleep(0.2)
            else:
                return
        raise TimeoutError("Open WebUI did not start")

    def open(self, path: str, body: object = None) -> Any:
        """Return the open answer to a request."""
        request = urllib.request.Request(  # noqa: S310
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {getattr(self, '_token', '')}"},
        )
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120)

    def ask(self, path: str, body: object = None) -> Any:
        """Return the document that answers a request."""
        with self.open(path, body) as answer:
            return json.load(answer)

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(30)


webui = OpenWebui()


def models() -> None:
    assert CHAT_MODEL in {model["id"] for model in webui.ask("/api/models")["data"]}


def chat() -> None:
    body = {"model": CHAT_MODEL, "messages": QUESTION, "stream": False, "params": {"max_tokens": 30}}
    assert webui.ask("/api/chat/completions", body)["choices"][0]["message"]["content"]


def stream() -> None:
    def read() -> Iterator[str | None]:
        body = {"model": CHAT_MODEL, "messages": QUESTION, "stream": True, "params": {"max_tokens": 30}}
        with webui.open("/api/chat/completions", body) as answer:
            for line in answer:
                data = line.decode().strip().removeprefix("data: ")
                if data.startswith("{"):
                    for choice in json.loads(data).get("choices", []):
                        yield choice["delta"].get("content")

    steps.check_stream(read())


def title() -> None:
    body = {"model": CHAT_MODEL, "messages": [*QUESTION, {"role": "assistant", "content": "Hello."}]}
    assert webui.ask("/api/v1/tasks/title/completions", body)["choices"]


def embeddings() -> None:
    body = {"name": "notes", "content": "It rains in Oslo.", "collection_name": "notes"}
    assert webui.ask("/api/v1/retrieval/process/text", body)["status"]
    query = {"collection_name": "notes", "query": "weather", "k": 1}
    assert webui.ask("/api/v1/retrieval/query/doc", query)["documents"]


if __name__ == "__main__":
    try:
        steps.run_steps(models, chat, stream, title, embeddings)
    finally:
        webui.close()
