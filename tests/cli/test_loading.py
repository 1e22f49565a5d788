"""`llb load`: the note on a context that is shorter than the wanted one."""

from __future__ import annotations

from llb.cli.loading import note_on_context


def test_a_shorter_context_is_explained() -> None:
    assert note_on_context(4096, 4096, 8192) is None
    assert note_on_context(None, 4096, 8192) is None
    assert note_on_context(32768, 8192, 8192) == (
        "The context is 8192 tokens instead of 32768: the model has no more."
    )
    assert note_on_context(32768, 4096, 8192) == (
        "The context is 4096 tokens instead of 32768: the memory allows no more."
    )
