"""Capabilities that are read from the text of a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb import gguf
from llb.gguf import template_capabilities, template_support
from llb.wire import Capability, TemplateSupport
from tests.ggufs import ALTERNATING_CHAT_TEMPLATE, CHAT_TEMPLATE, TOOL_CHAT_TEMPLATE, write_chat_model

TOOLS, REASONING = Capability.TOOL_USE, Capability.REASONING


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT_TEMPLATE, ()),
        (TOOL_CHAT_TEMPLATE, (TOOLS,)),
        # Qwen3, Llama 3.1, gpt-oss, Magistral, Gemma 3, DeepSeek-R1
        ("{%- if tools %}# Tools{% endif %}{% if enable_thinking is false %}<think>{% endif %}",
         (TOOLS, REASONING)),
        ("{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}", (TOOLS,)),
        ("{{ render(message['tools']) }}<|channel|>analysis", (REASONING,)),
        ("[SYSTEM_PROMPT]{% for tool in tools %}{{ tool }}{% endfor %}[THINK]", (TOOLS, REASONING)),
        ("{% for message in messages %}{{ message['content'] | trim }}{% endfor %}", ()),
        ("{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}",
         (REASONING,)),
        # Prose, comments and other names are no variables.
        ("You have no tools.{# if tools #}{{ 'tools' }}{{ tools_here }}{{ my_tools }}", ()),
    ],
)  # fmt: skip
def test_the_capabilities_of_a_template(template: str, expected: tuple[Capability, ...]) -> None:
    assert template_capabilities([template]) == expected


def test_a_template_for_tools_beside_the_other() -> None:
    assert template_capabilities([CHAT_TEMPLATE, TOOL_CHAT_TEMPLATE]) == (TOOLS,)
    assert template_capabilities([None, None]) == ()


def test_the_header_has_the_template_although_it_is_long(tmp_path: Path) -> None:
    template = TOOL_CHAT_TEMPLATE + "{# " + "x" * 20_000 + " #}"
    path = write_chat_model(tmp_path / "m.gguf", template=template)
    with path.open("rb") as file:
        metadata = gguf.read_metadata(file, file_size=path.stat().st_size)
    assert metadata.chat_template == template
    assert metadata.tool_template is None


def test_a_template_of_absurd_size_is_skipped(tmp_path: Path) -> None:
    path = write_chat_model(tmp_path / "m.gguf", template="{{ tools }}" + "x" * 300_000)
    with path.open("rb") as file:
        metadata = gguf.read_metadata(file, file_size=path.stat().st_size)
    assert metadata.chat_template is None


def test_what_a_template_says_of_the_messages_that_it_refuses() -> None:
    assert template_support([CHAT_TEMPLATE]) == TemplateSupport(tools=False)
    assert template_support([TOOL_CHAT_TEMPLATE]) == TemplateSupport()
    assert template_support([ALTERNATING_CHAT_TEMPLATE]) == TemplateSupport(
        tools=False, several_system=False, late_system=False, consecutive_roles=False
    )
    insisting = "{{ raise_exception('System message must be at the beginning.') }}"
    assert template_support([insisting]) == TemplateSupport(
        tools=False, several_system=False, late_system=False
    )
    # Complaints about tools say nothing of the messages.
    assert template_support(
        ['{{ raise_exception("This model only supports single tool-calls at once!") }}']
    ) == (TemplateSupport(tools=False))
