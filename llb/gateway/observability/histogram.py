"""Histogram of Prometheus for one thread: it takes no lock for each observation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import repeat

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class HistogramSeries:
    """Observations with the same label values."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        # The last bucket has the values above all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count values as `observe` does."""
        counts = self.counts
        for bucket in map(bisect_left, repeat(self._bounds), values):
            counts[bucket] += 1
        self.total += sum(values)


class Histogram(Collector):
    """Histogram, observed and read in one thread."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """`buckets` are the bounds in ascending order, without infinity."""
        self._name = name
        self._documentation = documentation
        self._label_names = tuple(label_names)
        self._bounds = tuple(buckets)
        self._bound_texts = [
            floatToGoString(bound)  # type: ignore[no-untyped-call]
            for bound in (*buckets, float("inf"))
        ]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        if not label_names:
            self.series()
        registry.register(self)

    def series(self, *label_values: str) -> HistogramSeries:
        """Return the series with these values of the labels, in the order of their names."""
        found = self._series.get(label_values)
        if found is None:
            found = self._series[label_values] = HistogramSeries(self._bounds)
        return found

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._label_names)
        for label_values, series in self._series.items():
            buckets: list[tuple[str, float]] = []
            count = 0
            for bound, number in zip(self._bound_texts, series.counts, strict=True):
                count += number
                buckets.append((bound, count))
            family.add_metric(label_values, buckets, series.total)
        yield family
