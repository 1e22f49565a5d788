"""Load: chat sessions of several turns that share system prompts. The same seed generates the same day."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

DAY_S = 86_400.0
DAILY_AMPLITUDE = 0.8  # how much quieter than the mean it is at midnight, and busier at noon
SYSTEM_TOKENS = (40, 120, 250, 400, 600, 900, 1300, 2000)  # the first is the most common
PASTED_SHARE = 0.1  # of the questions bring a long text
SESSION_END_SHARE = 1 / 6  # of the sessions, after each turn


@dataclass(frozen=True, slots=True)
class Turn:
    question_tokens: int
    answer_tokens: int
    think_s: float  # after the answer


@dataclass(frozen=True, slots=True)
class Session:
    number: int
    system_prompt: int
    system_tokens: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class SimulatedUser:
    """Runs one session after the other."""

    starts_at: float
    sessions: tuple[Session, ...]


def generate_day(seed: int, sessions: int, context: int) -> Iterator[SimulatedUser]:
    """Generate clients with one session each, at random moments (a Poisson process) along a daily curve."""
    chance = random.Random(seed)
    for number in range(sessions):
        begins = chance.random()
        while chance.random() * (1 + DAILY_AMPLITUDE) > 1 - DAILY_AMPLITUDE * math.cos(2 * math.pi * begins):
            begins = chance.random()
        yield SimulatedUser(begins * DAY_S, (_generate_session(chance, number, context),))


def generate_constant(seed: int, clients: int, sessions: int, context: int) -> Iterator[SimulatedUser]:
    """Generate clients that do not think: the number of requests in progress is constant."""
    chance = random.Random(seed)
    for client in range(clients):
        made = [
            _generate_session(chance, client * sessions + number, context, without_pauses=True)
            for number in range(sessions)
        ]
        yield SimulatedUser(client * 0.1, tuple(made))


def _generate_session(
    chance: random.Random, number: int, context: int, *, without_pauses: bool = False
) -> Session:
    system = min(int(chance.paretovariate(1.0)) - 1, len(SYSTEM_TOKENS) - 1)
    tokens = SYSTEM_TOKENS[system]
    turns: list[Turn] = []
    while True:
        asked = _sample_tokens(chance, 60, 1.0)
        if chance.random() < PASTED_SHARE:
            asked += _sample_tokens(chance, 800, 0.6)
        answer = _sample_tokens(chance, 180, 0.7)
        think_s = 0.0 if without_pauses else chance.lognormvariate(math.log(40), 1.0)
        if turns and tokens + asked + answer > context:
            break
        tokens += asked + answer
        turns.append(Turn(asked, answer, think_s))
        if chance.random() < SESSION_END_SHARE:
            break
    return Session(number, system, SYSTEM_TOKENS[system], tuple(turns))


def _sample_tokens(chance: random.Random, median: int, spread: float) -> int:
    return max(4, min(20 * median, int(chance.lognormvariate(math.log(median), spread))))
