"""Matrix of the official clients and the kinds of targets: what the tests run, and its table.

`python -m tests.balancer.endpoints.matrix` writes the table into docs/compatibility.md.
"""

from __future__ import annotations

from pathlib import Path

from llb.policy.endpoints.dialects import CHAT, EMBEDDINGS, MESSAGES, path_at, speaks
from llb.wire import EndpointKind
from tests.providers import KINDS, ProviderStandIn

DOCUMENT = Path(__file__).parents[3] / "docs" / "compatibility.md"
BEGIN = "<!-- written by python -m tests.balancer.endpoints.matrix: begin -->\n"
END = "<!-- matrix: end -->\n"
# Of every target.
KEY = "sk-provider-0123456789abcdef"
CLOUDS = ("openai", "anthropic", "google")
# A second llb, at which these models of its catalogue are answered by the stand-in of Ollama.
LLB, KIND_BEHIND_LLB, MODELS_OF_LLB = "llb", "ollama", ("tiny", "embedder")
TARGETS = (LLB, *KINDS)
EMBEDDING_KINDS = tuple(kind for kind in TARGETS if speaks(EndpointKind(kind), EMBEDDINGS))


def model_of(kind: str, stand_in: ProviderStandIn, number: int = 0) -> str:
    if kind == LLB:
        return f"{LLB}/{MODELS_OF_LLB[number]}"
    separator = ":" if kind in CLOUDS else "/"
    return f"{kind}{separator}{stand_in.provider.models[number].id}"


def render_matrix() -> str:
    """The table: how each target is asked for each client, and what works."""
    lines = [
        "| target | OpenAI's client | Anthropic's client | Ollama's client | embeddings |",
        "|" + " --- |" * 5,
    ]
    for kind in TARGETS:
        cells = (_way(kind, CHAT), _way(kind, MESSAGES), _way(kind, CHAT))
        embeddings = "OpenAI's, Ollama's" if kind in EMBEDDING_KINDS else "none at the target"
        lines.append(f"| `{kind}` | {cells[0]} | {cells[1]} | {cells[2]} | {embeddings} |")
    return "\n".join(lines) + "\n"


def _way(kind: str, path: str) -> str:
    target = path_at(EndpointKind(kind), path)
    return "✓ as it is" if target == path else "✓ as Messages" if target == MESSAGES else "✓ as a chat"


def write_matrix() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + render_matrix() + END + after, encoding="utf-8")


if __name__ == "__main__":
    write_matrix()
