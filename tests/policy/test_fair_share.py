"""Fair share of a bounded total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.fair_share import largest_share


@pytest.mark.parametrize(
    ("amounts", "total", "share"),
    [
        ([], 5, 5),
        ([3], 5, 3),
        ([10], 5, 5),
        ([1, 10], 5, 4),
        ([2, 2, 2], 5, 1),
        ([1, 1, 1], 2, 0),
        ([1, 2, 1000], 100, 97),
    ],
)
def test_who_has_little_keeps_it(amounts: list[int], total: int, share: int) -> None:
    assert largest_share(amounts, total) == share


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 300))
def test_the_share_is_the_largest_that_fits(amounts: list[int], total: int) -> None:
    share = largest_share(amounts, total)
    assert sum(min(amount, share) for amount in amounts) <= total
    if sum(amounts) > total:
        assert sum(min(amount, share + 1) for amount in amounts) > total
