"""Keep-alive that a request asks for, beside the present one and the host's own."""

from __future__ import annotations

import pytest

from llb.policy.keep_alive import KeepAlive


@pytest.mark.parametrize(
    ("default_s", "current_s", "asked_s", "expected_s"),
    [
        (60.0, 60.0, 0.0, 60.0),
        (60.0, 60.0, -1.0, 60.0),
        (60.0, 10.0, 30.0, 30.0),
        (60.0, 10.0, 1e308, 60.0),
        (60.0, 10.0, -1.0, 60.0),
        (60.0, -1.0, 0.0, -1.0),
        (60.0, 900.0, 1000.0, 900.0),
        (-1.0, 60.0, -1.0, -1.0),
        (-1.0, 60.0, 600.0, 600.0),
        (0.0, 0.0, 600.0, 0.0),
    ],
)
def test_a_keep_alive_that_only_lengthens(
    default_s: float, current_s: float, asked_s: float, expected_s: float
) -> None:
    assert KeepAlive(asked_s, may_shorten=False).apply(current_s, default_s) == expected_s
    assert KeepAlive(asked_s).apply(current_s, default_s) == asked_s
