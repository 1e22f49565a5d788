"""The whole matrix, as a table: `python -m tests.gpu [ARCHITECTURE…]`.

The exit status is 1 if a figure is off.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from llb.policy.memory import MIB
from tests.gpu.llama_server import find_vulkan_server
from tests.gpu.matrix import ARCHITECTURES, cases, run_case, write_model


def main(names: list[str]) -> int:
    """Print one line for each case, and one for each figure that is off."""
    server = find_vulkan_server()
    if isinstance(server, str):
        raise SystemExit(server)
    chosen = [each for each in ARCHITECTURES if not names or each.name in names]
    figures = off = 0
    with tempfile.TemporaryDirectory() as folder:
        for architecture in chosen:
            model = write_model(architecture, Path(folder))
            for case in cases([architecture]):
                comparisons = run_case(case, model, server)
                figures += len(comparisons)
                places = dict.fromkeys(comparison.place for comparison in comparisons)
                sizes = []
                for place in places:
                    pairs = [
                        f"{c.planned_bytes / MIB:.2f}/{c.reported_bytes / MIB:.2f}"
                        for c in comparisons
                        if c.place == place
                    ]
                    sizes.append(f"{place} {' '.join(pairs)}")
                print(f"{case.name}: {'; '.join(sizes)}", flush=True)
                for comparison in comparisons:
                    if not comparison.is_within_tolerance:
                        off += 1
                        print(f"  OFF {comparison}", flush=True)
    print(f"{figures - off} of {figures} figures within their tolerance.")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
