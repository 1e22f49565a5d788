"""Sentences of the server that have a code, as they are written in its source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import llb
from llb.security.peer_process import Doubt

PACKAGE = Path(llb.__file__).parent


@cache
def coded_sentences() -> dict[str, str]:
    """Return the English templates by code. A code has one template, both written as literals."""
    # Made of the members of an enum.
    found = {f"doubt_{doubt.name.lower()}": doubt.value for doubt in Doubt}
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        if "CodedText(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CodedText":
                code, template = (ast.literal_eval(argument) for argument in node.args)
                assert found.setdefault(code, template) == template, f"{path.name}:{node.lineno}: {code}"
    return found
