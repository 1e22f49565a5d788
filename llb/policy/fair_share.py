"""Fair share: how much each of several holders keeps of a bounded total. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def largest_share(amounts: Iterable[int], total: int) -> int:
    """Return the largest share for which the amounts, each cut down to it, are at most `total` together.

    Holders below the share keep all they have, so that one that grows displaces only its own. 0: there are
    more holders than `total`.
    """
    rising = sorted(amounts)
    share = total
    for index, amount in enumerate(rising):
        share = total // (len(rising) - index)
        if amount > share:
            break
        total -= amount
    else:
        # Everything fits.
        return max(rising, default=total)
    return share
