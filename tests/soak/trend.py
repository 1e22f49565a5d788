"""Trend of a figure: slope of a straight line through its samples, with its confidence. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t, two-sided 95 %, by degrees of freedom; beyond the last the normal distribution's.
_T_QUANTILES_95 = {
    1: 12.71,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    8: 2.306,
    10: 2.228,
    15: 2.131,
    20: 2.086,
    30: 2.042,
    60: 2.0,
}
_NORMAL_QUANTILE_95 = 1.96


@dataclass(frozen=True)
class Trend:
    """Ordinary least squares: `per_hour` with its 95 % confidence interval, which takes the samples for
    independent.
    """

    mean: float
    per_hour: float
    per_hour_low: float
    per_hour_high: float

    @property
    def is_growing(self) -> bool:
        """Whether it is likely to grow by more than a tenth of its mean in ten hours: small change is not a
        leak.
        """
        return self.per_hour_low > 0 and self.per_hour * 10 > 0.1 * self.mean


def fit_trend(hours: Sequence[float], values: Sequence[float]) -> Trend | None:
    """None for fewer than three samples, or all at the same time.

    Source: any text on simple linear regression; the standard error of the slope is sqrt(RSS / (n - 2) /
    Sxx).
    """
    n = len(hours)
    if n < 3:
        return None
    x_mean, y_mean = sum(hours) / n, sum(values) / n
    sxx = sum((x - x_mean) ** 2 for x in hours)
    if sxx == 0:
        return None
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(hours, values, strict=True)) / sxx
    rss = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(hours, values, strict=True))
    half = _t_quantile_95(n - 2) * math.sqrt(rss / (n - 2) / sxx)
    return Trend(y_mean, slope, slope - half, slope + half)


def _t_quantile_95(degrees_of_freedom: int) -> float:
    known = [at for at in _T_QUANTILES_95 if at <= degrees_of_freedom]
    return _NORMAL_QUANTILE_95 if degrees_of_freedom > max(_T_QUANTILES_95) else _T_QUANTILES_95[max(known)]
