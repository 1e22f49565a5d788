"""Change publisher: states at once, figures together, nothing twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from llb.cluster import change_publisher
from llb.cluster.change_publisher import ChangePublisher, PublishThrottle

# State and figure of a subject.
Event = tuple[str, str, int]


class Subjects:
    """Publisher of subjects with a state and a figure; the throttle's timer is run by the test."""

    def __init__(self) -> None:
        self.states: dict[str, tuple[str, int]] = {}
        self.published: list[Event] = []
        self.throttle = PublishThrottle()
        self.publisher = ChangePublisher(
            lambda subject: (subject, *self.states[subject]),
            self.published.append,
            self.throttle,
            urgent_part_of=lambda event: event[1],
        )

    def set(self, subject: str, state: str, figure: int) -> None:
        self.states[subject] = (state, figure)
        self.publisher.publish_if_changed(subject)

    def take(self) -> list[Event]:
        taken, self.published[:] = [*self.published], []
        return taken

    def pass_interval(self) -> list[Event]:
        """Let the interval pass; returns what is published then."""
        timer = self.throttle._timer
        if timer is not None:
            timer.cancel()
            self.throttle._publish_pending()
        return self.take()


@pytest.fixture
async def subjects() -> Subjects:
    return Subjects()


async def test_a_state_is_published_at_once_and_once(subjects: Subjects) -> None:
    subjects.set("a", "ready", 1)
    subjects.set("a", "ready", 1)
    subjects.set("a", "busy", 1)
    assert subjects.take() == [("a", "ready", 1), ("a", "busy", 1)]
    assert subjects.pass_interval() == []
    assert "a" in subjects.publisher
    assert "b" not in subjects.publisher


async def test_figures_are_published_together_with_their_last_values(subjects: Subjects) -> None:
    for name in ("a", "b"):
        subjects.set(name, "ready", 0)
    subjects.take()
    for figure in (1, 2, 3):
        subjects.set("b", "ready", figure)
        subjects.set("a", "ready", figure)
    assert subjects.take() == []
    assert subjects.pass_interval() == [("b", "ready", 3), ("a", "ready", 3)]


async def test_a_figure_that_came_back_is_not_published(subjects: Subjects) -> None:
    subjects.set("a", "ready", 1)
    subjects.set("a", "ready", 2)
    subjects.set("a", "ready", 1)
    subjects.take()
    assert subjects.pass_interval() == []


async def test_a_change_of_state_takes_its_figures_along(subjects: Subjects) -> None:
    subjects.set("a", "ready", 1)
    subjects.set("a", "ready", 2)
    subjects.set("a", "busy", 3)
    assert subjects.take() == [("a", "ready", 1), ("a", "busy", 3)]
    assert subjects.pass_interval() == []


async def test_what_is_forgotten_is_not_published_and_begins_anew(subjects: Subjects) -> None:
    subjects.set("a", "ready", 1)
    subjects.set("a", "ready", 2)
    subjects.publisher.forget("a")
    subjects.publisher.forget("never")
    subjects.take()
    assert subjects.pass_interval() == []
    subjects.set("a", "ready", 2)
    assert subjects.take() == [("a", "ready", 2)]


async def test_the_timer_waits_for_the_rest_of_the_interval(
    subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    delays: list[float] = []
    loop = asyncio.get_running_loop()

    def call_later(delay_s: float, callback: object) -> asyncio.TimerHandle:
        delays.append(round(delay_s, 3))
        return asyncio.TimerHandle(loop.time(), lambda: None, (), loop)

    monkeypatch.setattr(change_publisher, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "call_later", call_later)
    subjects.set("a", "ready", 1)
    now[0] += 0.1
    subjects.set("a", "ready", 2)
    # A second change waits for the same timer.
    subjects.set("a", "ready", 3)
    assert delays == [0.15]
    subjects.throttle._publish_pending()
    now[0] += 9.0
    # The callback that runs may change more: not before it has ended.
    subjects.set("a", "ready", 4)
    assert delays == [0.15, 0.0]


async def test_a_throttle_that_is_closed_publishes_nothing_more(subjects: Subjects) -> None:
    subjects.set("a", "ready", 1)
    subjects.set("a", "ready", 2)
    subjects.take()
    subjects.throttle.close()
    subjects.throttle.close()
    assert subjects.throttle._timer is None
    subjects.throttle._publish_pending()
    assert subjects.take() == []
