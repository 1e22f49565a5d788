"""Capabilities that a chat template has, read from its text.

A template is a program that the author of the file wrote: it is not run here. llama.cpp runs it with examples
when it loads the model, and finds the same (`chat_template_caps` of `/props`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from llb.wire import TEMPLATE_CAPABILITIES, Capability, TemplateSupport

_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# A statement or an expression. Text outside of them may mention tools in prose.
_CODE = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_TEXT_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
# The variable with the tools of a request, or its attribute in a message (`messages[0].tools`).
_TOOLS_VARIABLE = re.compile(r"\btools\b")
# Markers of reasoning, and the names by which templates read it from messages and arguments.
_REASONING = re.compile(
    r"</?(?:seed:)?think(?:ing)?>|\[/?THINK\]|<\|(?:START|END)_THINKING\|>|<\|channel\|?>|<\|think\|>"
    r"|\breasoning_content\b|\breasoning_effort\b|\benable_thinking\b"
)

# Messages with which a template refuses a conversation.
_COMPLAINT = re.compile(r"raise_exception\(\s*(?:'([^']{0,500})'|\"([^\"]{0,500})\")")


def template_capabilities(templates: Iterable[str | None]) -> tuple[Capability, ...]:
    """Return which of `TEMPLATE_CAPABILITIES` the templates of one model have; None is an absent one."""
    found: set[Capability] = set()
    for template in templates:
        if template is None:
            continue
        text = _COMMENT.sub("", template)
        code = _TEXT_LITERAL.sub("''", " ".join(_CODE.findall(text)))
        if _TOOLS_VARIABLE.search(code):
            found.add(Capability.TOOL_USE)
        if _REASONING.search(text):
            found.add(Capability.REASONING)
    return tuple(capability for capability in TEMPLATE_CAPABILITIES if capability in found)


def template_support(templates: Iterable[str | None]) -> TemplateSupport:
    """Return what the templates print as far as their text says it, until an engine has tried them."""
    present = [template for template in templates if template is not None]
    complaints = " ".join(
        single or double for template in present for single, double in _COMPLAINT.findall(template)
    ).lower()
    alternates = "alternat" in complaints
    insists = alternates or "system" in complaints or "beginning" in complaints
    return TemplateSupport(
        tools=Capability.TOOL_USE in template_capabilities(present),
        several_system=not insists,
        late_system=not insists,
        consecutive_roles=not alternates,
    )
