"""The client programs, their environments, and the notes about each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CLIENTS = Path(__file__).parents[1]
LOCKS = CLIENTS / "locks"
NODE = CLIENTS / "node"
AGENTS = CLIENTS / "agents"


@dataclass(frozen=True)
class Program:
    """A library or an application: `entry` is its module below tests/clients, or its script."""

    name: str
    packages: tuple[str, ...]
    environment: str
    entry: str
    dialects: str


LIBRARIES = (
    Program("openai-python", ("openai",), "sdks", "programs.openai_client", "OpenAI"),
    Program("anthropic-python", ("anthropic",), "sdks", "programs.anthropic_client", "Anthropic"),
    Program("ollama-python", ("ollama",), "sdks", "programs.ollama_client", "Ollama"),
    Program("langchain-openai", ("langchain-openai",), "sdks", "programs.langchain_openai_client", "OpenAI"),
    Program(
        "langchain-anthropic",
        ("langchain-anthropic",),
        "sdks",
        "programs.langchain_anthropic_client",
        "Anthropic",
    ),
    Program("langchain-ollama", ("langchain-ollama",), "sdks", "programs.langchain_ollama_client", "Ollama"),
    Program("pydantic-ai", ("pydantic-ai-slim",), "sdks", "programs.pydantic_ai_client", "OpenAI, Anthropic"),
    Program(
        "llama-index",
        ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like"),
        "llama-index",
        "programs.llama_index_client",
        "OpenAI",
    ),
    Program("litellm", ("litellm",), "litellm", "programs.litellm_client", "OpenAI, Anthropic, Ollama"),
    Program("instructor", ("instructor",), "instructor", "programs.instructor_client", "OpenAI, Anthropic"),
    Program("openai-node", ("openai",), "node", "openai.mjs", "OpenAI"),
    Program("anthropic-node", ("@anthropic-ai/sdk",), "node", "anthropic.mjs", "Anthropic"),
    Program("ollama-node", ("ollama",), "node", "ollama.mjs", "Ollama"),
    Program("ai-sdk", ("ai", "@ai-sdk/openai-compatible"), "node", "ai.mjs", "OpenAI"),
    Program("openai-agents", ("openai-agents",), "agent-sdks", "agents.openai_agents", "OpenAI"),
    Program("smolagents", ("smolagents",), "agent-sdks", "agents.smolagents_client", "OpenAI"),
    Program("open-webui", ("open-webui",), "open-webui", "agents.open_webui", "OpenAI"),
)
