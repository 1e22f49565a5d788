"""Names of endpoints and models."""

from __future__ import annotations

import pytest

from llb.policy.endpoints.names import full_name, is_offered, name_from_host, sole_owner, suggest_mapping

CATALOGUE: dict[str, tuple[str, str | None]] = {
    "qwen3-8b": ("Qwen/Qwen3-8B-GGUF", "Q4_K_M"),
    "llama-3.2-1b": ("unsloth/Llama-3.2-1B-Instruct-GGUF", "Q4_K_M"),
}


def test_full_names() -> None:
    assert full_name("box", "org/m:8b", is_cloud=False) == "box/org/m:8b"
    assert full_name("openai", "gpt-5", is_cloud=True) == "openai:gpt-5"


@pytest.mark.parametrize(
    ("host", "taken", "name"),
    [
        ("gpu-box.lan", set(), "gpu-box"),
        ("gpu-box.lan", {"gpu-box"}, "gpu-box-8000"),
        ("10.0.0.5", set(), "10-0-0-5"),
        ("::1", {"1", "1-8000"}, "1-8000-2"),
    ],
)
def test_a_name_from_the_host(host: str, taken: set[str], name: str) -> None:
    assert name_from_host(host, 8000, taken) == name


def test_filters() -> None:
    assert is_offered("x", None)
    assert [is_offered(name, ("gpt-5", "o*")) for name in ("gpt-5", "gpt-5-mini", "o3")] == [
        True,
        False,
        True,
    ]


def test_the_only_owner() -> None:
    assert (sole_owner(["a"]), sole_owner(["a", "b"]), sole_owner([])) == ("a", None, None)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("qwen3-8b", "qwen3-8b"),
        ("Qwen3-8B-Q4_K_M.gguf", "qwen3-8b"),
        ("Qwen3-8B-Q8_0.gguf", None),
        ("Qwen/Qwen3-80B", None),
        ("unsloth/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
        ("mistral", None),
    ],
)
def test_suggestions(name: str, suggestion: str | None) -> None:
    assert suggest_mapping(name, CATALOGUE) == suggestion
