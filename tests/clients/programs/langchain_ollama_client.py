"""The `langchain-ollama` package."""

from __future__ import annotations

from langchain_ollama import ChatOllama, OllamaEmbeddings

from tests.clients.programs import langchain_steps, steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL

HEADERS = {"headers": {"Authorization": f"Bearer {steps.KEY}"}, "trust_env": False}


def make_model(name: str, max_tokens: int) -> ChatOllama:
    """Return a chat model of llb."""
    return ChatOllama(model=name, base_url=steps.URL, client_kwargs=HEADERS, num_predict=max_tokens)


def chat() -> None:
    langchain_steps.check_chat(make_model(CHAT_MODEL, 8))


def stream() -> None:
    langchain_steps.check_stream(make_model(CHAT_MODEL, 8))


def tool_call() -> None:
    langchain_steps.check_tool_call(make_model(TOOL_MODEL, 200))


def structured_output() -> None:
    langchain_steps.check_structured_output(make_model(CHAT_MODEL, 100))


def embeddings() -> None:
    embeddings = OllamaEmbeddings(model=EMBEDDING_MODEL, base_url=steps.URL, client_kwargs=HEADERS)
    steps.check_vectors(embeddings.embed_documents(["one", "two"]))


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, structured_output, embeddings)
