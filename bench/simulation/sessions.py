"""Who asks what and when: chat sessions of several turns that share system prompts. The same seed makes the same day."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
NIGHT = 0.8  # how much quieter than the mean it is at midnight, and busier at noon
SYSTEM_TOKENS = (40, 120, 250, 400, 600, 900, 1300, 2000)  # the first is the most common
PASTED = 0.1  # of the questions bring a long text
ENDS = 1 / 6  # of the sessions, after each turn


@dataclass(frozen=True, slots=True)
class Turn:
    asked_tokens: int
    answer_tokens: int
    think_s: float  # after the answer


@dataclass(frozen=True, slots=True)
class Session:
    number: int
    system: int
    system_tokens: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """Holds one session after the other, each when the one before has ended."""

    begins: float
    sessions: tuple[Session, ...]


def day(seed: int, sessions: int, context: int) -> Iterator[Client]:
    """So many clients with a session each, at random moments (a Poisson process) along a daily curve."""
    chance = random.Random(seed)
    for number in range(sessions):
        begins = chance.random()
        while chance.random() * (1 + NIGHT) > 1 - NIGHT * math.cos(2 * math.pi * begins):
            begins = chance.random()
        yield Client(begins * DAY_S, (_session(chance, number, context),))


def constant(seed: int, clients: int, sessions: int, context: int) -> Iterator[Client]:
    """Clients that do not think: there are always so many requests under way."""
    chance = random.Random(seed)
    for client in range(clients):
        made = [
            _session(chance, client * sessions + number, context, hurry=True) for number in range(sessions)
        ]
        yield Client(client * 0.1, tuple(made))


def _session(chance: random.Random, number: int, context: int, *, hurry: bool = False) -> Session:
    system = min(int(chance.paretovariate(1.0)) - 1, len(SYSTEM_TOKENS) - 1)
    tokens = SYSTEM_TOKENS[system]
    turns: list[Turn] = []
    while True:
        asked = _about(chance, 60, 1.0)
        if chance.random() < PASTED:
            asked += _about(chance, 800, 0.6)
        answer = _about(chance, 180, 0.7)
        think_s = 0.0 if hurry else chance.lognormvariate(math.log(40), 1.0)
        if turns and tokens + asked + answer > context:
            break
        tokens += asked + answer
        turns.append(Turn(asked, answer, think_s))
        if chance.random() < ENDS:
            break
    return Session(number, system, SYSTEM_TOKENS[system], tuple(turns))


def _about(chance: random.Random, median: int, spread: float) -> int:
    return max(4, min(20 * median, int(chance.lognormvariate(math.log(median), spread))))
