"""Fuzz all parsers of external input: `python -m tests.fuzz [--cases 100000] [--seed 1] [--only NAME]`.

Each case is a mutated example. A parser may raise only its documented errors, and must finish within two
seconds and a hundred megabytes. Exits 1 with the first case of each target that violates this.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
import tracemalloc
from pathlib import Path

from tests.fuzz.targets import FuzzTarget, build_targets

MAX_DURATION_S = 2.0
MAX_MEMORY_BYTES = 100_000_000


def find_defect(target: FuzzTarget, seed: str, *, measure_memory: bool) -> str | None:
    """Why this case is one, None if it is none."""
    chance = random.Random(seed)
    case = target.generate_case(chance)
    if measure_memory:
        tracemalloc.start()
    began = time.perf_counter()
    try:
        target.parse(case, chance)
    except target.allowed_errors:
        pass
    except Exception:
        # Any undocumented exception is the defect that is searched for.
        return f"{traceback.format_exc()}\ncase: {case[:2000]!r}"
    finally:
        took_s = time.perf_counter() - began
        peak_bytes = tracemalloc.get_traced_memory()[1] if measure_memory else 0
        tracemalloc.stop()
    if took_s > MAX_DURATION_S:
        return f"it took {took_s:.1f} s\ncase: {case[:2000]!r}"
    if peak_bytes > MAX_MEMORY_BYTES:
        return f"it took {peak_bytes} bytes\ncase: {case[:2000]!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="a target by its name")
    options = parser.parse_args()
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="llb-fuzz-") as name:
        chosen = [each for each in build_targets(Path(name)) if options.only in (None, each.name)]
        for target in chosen:
            cases = max(1, options.cases // len(chosen))
            began = time.monotonic()
            for number in range(cases):
                seed = f"{options.seed}.{target.name}.{number}"
                # Memory is looked at in one of twenty: it makes everything slow.
                if (why := find_defect(target, seed, measure_memory=number % 20 == 0)) is not None:
                    found.append(f"{target.name}, seed {seed}: {why}")
                    break
            print(f"{target.name}: {number + 1} cases in {time.monotonic() - began:.0f} s", flush=True)
    sys.exit("\n\n".join(found) if found else None)


if __name__ == "__main__":
    main()
