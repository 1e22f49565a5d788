"""Free memory: what is held, released and left after loads that ran out of it."""

from __future__ import annotations

import pytest

from llb.policy.memory.free_memory import FAILED_LOAD_SHARE, MAX_FAILED_GPU_LOADS, FreeMemory, Memory


def test_amounts_of_hosts_with_different_numbers_of_gpus_add_up() -> None:
    assert Memory(1, (2,)) + Memory(10, (20, 30)) == Memory(11, (22, 30))
    assert Memory(1, (2, 3)).total_bytes == 6


def test_what_is_reserved_beyond_what_exists_is_negative() -> None:
    free = FreeMemory(100, (50,)) - Memory(120, (10, 5))
    assert (free.ram_bytes, free.vram_bytes) == (-20, (40, -5))
    assert free.with_released(Memory(120, (10, 5))) == FreeMemory(100, (50, 0))


def test_vram_of_a_shared_memory_counts_against_both() -> None:
    shared = FreeMemory(100, (60,), is_shared=True)
    left = shared - Memory(30, (20,))
    assert (left.ram_bytes, left.vram_bytes) == (50, (40,))
    assert shared.covers(Memory(40, (60,)))
    assert not shared.covers(Memory(41, (60,)))
    # Beside one another they are two amounts.
    assert FreeMemory(100, (60,)).covers(Memory(100, (60,)))


@pytest.mark.parametrize(
    ("free", "required", "fits"),
    [
        (FreeMemory(10, (10,)), Memory(10, (10,)), True),
        (FreeMemory(10, (10,)), Memory(10, (11,)), False),
        (FreeMemory(10), Memory(0, (1,)), False),
        # Nothing of it is wanted, so it may be short.
        (FreeMemory(-5, (10,)), Memory(0, (10,)), True),
        (FreeMemory(10, (-5,)), Memory(10, (0,)), True),
        (FreeMemory(), Memory(), True),
    ],
)
def test_what_fits(free: FreeMemory, required: Memory, fits: bool) -> None:
    assert free.covers(required) is fits


def test_each_failed_load_leaves_less() -> None:
    free = FreeMemory(1000, (1000, 1000))
    assert free.reduced(0) == free
    once = free.reduced(1)
    assert (once.ram_bytes, once.vram_bytes) == (850, (850, 850))
    assert free.reduced(2).ram_bytes == int(1000 * FAILED_LOAD_SHARE**2)
    # Others may use them, too.
    given_up = free.reduced(MAX_FAILED_GPU_LOADS)
    assert given_up.vram_bytes == (0, 0)
    assert given_up.ram_bytes > 0


def test_less_was_free_than_the_failed_load_wanted() -> None:
    free = FreeMemory(1000, (1000, 1000))
    # It is rarely the RAM where layers are on GPUs.
    reduced = free.reduced(1, Memory(200, (400,)))
    assert (reduced.ram_bytes, reduced.vram_bytes) == (850, (340, 850))
    assert free.reduced(1, Memory(200)).ram_bytes == 170
