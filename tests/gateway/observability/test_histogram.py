"""The histogram of one thread is written as that of the client library."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from llb.gateway.observability.histogram import Histogram

BOUNDS = (0.1, 0.5, 1.0)


def test_it_is_written_as_that_of_the_library() -> None:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    theirs, ours = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    library = prometheus_client.Histogram("a_seconds", "About a", ("m", "k"), buckets=BOUNDS, registry=theirs)
    histogram = Histogram("a_seconds", "About a", ("m", "k"), buckets=BOUNDS, registry=ours)
    unlabelled = prometheus_client.Histogram("b_seconds", "About b", buckets=BOUNDS, registry=theirs)
    bare = Histogram("b_seconds", "About b", buckets=BOUNDS, registry=ours)
    assert generate_latest(ours) == generate_latest(theirs)
    for value in (0.0, 0.1, 0.2, 0.5, 1.0, 3.0):
        library.labels("x", 'y"').observe(value)
        histogram.series("x", 'y"').observe(value)
        unlabelled.observe(value)
        bare.series().observe(value)
    assert generate_latest(ours) == generate_latest(theirs)
