"""The client programs, the environments they are installed in, and what is said about each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CLIENTS = Path(__file__).parents[1]
LOCKS = CLIENTS / "locks"
NODE = CLIENTS / "node"
AGENTS = CLIENTS / "agents"


@dataclass(frozen=True)
class Program:
    """A library, or an agent: `entry` is its module, its script or its command."""

    name: str
    packages: tuple[str, ...]
    environment: str
    entry: str
    dialects: str


LIBRARIES = (
    Program("openai-python", ("openai",), "sdks", "openai_client", "OpenAI"),
    Program("anthropic-python", ("anthropic",), "sdks", "anthropic_client", "Anthropic"),
    Program("ollama-python", ("ollama",), "sdks", "ollama_client", "Ollama"),
    Program("langchain-openai", ("langchain-openai",), "sdks", "langchain_openai_client", "OpenAI"),
    Program(
        "langchain-anthropic", ("langchain-anthropic",), "sdks", "langchain_anthropic_client", "Anthropic"
    ),
    Program("langchain-ollama", ("langchain-ollama",), "sdks", "langchain_ollama_client", "Ollama"),
    Program("pydantic-ai", ("pydantic-ai-slim",), "sdks", "pydantic_ai_client", "OpenAI, Anthropic"),
    Program(
        "llama-index",
        ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like"),
        "llama-index",
        "llama_index_client",
        "OpenAI",
    ),
    Program("litellm", ("litellm",), "litellm", "litellm_client", "OpenAI, Anthropic, Ollama"),
    Program("instructor", ("instructor",), "instructor", "instructor_client", "OpenAI, Anthropic"),
    Program("openai-node", ("openai",), "node", "openai.mjs", "OpenAI"),
    Program("anthropic-node", ("@anthropic-ai/sdk",), "node", "anthropic.mjs", "Anthropic"),
    Program("ollama-node", ("ollama",), "node", "ollama.mjs", "Ollama"),
    Program("ai-sdk", ("ai", "@ai-sdk/openai-compatible"), "node", "ai.mjs", "OpenAI"),
)
