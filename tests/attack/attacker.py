"""Attacker, in a process of its own, so that its work does not delay the victim."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import resource
from types import TracebackType

from tests.attack.attacks import ATTACKS, Attack
from tests.attack.target import Target

NICENESS = 10  # on the same cores as llb; a real attacker has cores of its own
SETTLE_S = 5.0  # a process that does not end by itself is killed


class Attacker:
    """`start(attack)` and `stop()`; one attack at a time."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target, self._seed = target, seed
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self, attack: Attack) -> None:
        context = multiprocessing.get_context("spawn")
        self._seed += 1
        self._process = context.Process(
            target=run_attack, args=(ATTACKS.index(attack), self._target, self._seed), daemon=True
        )
        self._process.start()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.join(SETTLE_S)
            process.kill()
            process.join()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_attack(index: int, target: Target, seed: int) -> None:
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(ATTACKS[index](target, random.Random(seed)))
