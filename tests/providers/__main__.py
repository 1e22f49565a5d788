"""Stand-ins by hand: `python -m tests.providers vllm --port 18551`, or `all`."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from tests.providers.faults import Fault, FaultKind
from tests.providers.server import KINDS, ProviderStandIn
from tests.stop_signal import StopSignal


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.providers",
        description="Stand-ins of engines and clouds, on loopback, until Ctrl-C.",
        epilog="Faults: "
        + ", ".join(kind.value for kind in FaultKind)
        + ". Example: --fault status:status=429,retry_after=2,times=3. While it runs: "
        "curl -d '[\"hang\"]' ORIGIN/_faults, curl ORIGIN/_requests.",
    )
    parser.add_argument(
        "kind", choices=[*KINDS, "all"], help="kind of provider, or all, each on its own port"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=0, help="default: a free one; with all, the first of several"
    )
    parser.add_argument("--key", help="the key that it asks for; default: none")
    parser.add_argument(
        "--model", action="append", default=[], help="a model that it serves; may be repeated"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="KIND[:field=value,…]")
    options = parser.parse_args()
    faults = [Fault.parse(text) for text in options.fault]
    kinds = list(KINDS) if options.kind == "all" else [options.kind]
    stop = StopSignal()
    with ExitStack() as stack:
        for offset, kind in enumerate(kinds):
            port = options.port + offset if options.port else 0
            stand_in = stack.enter_context(
                ProviderStandIn(kind, key=options.key, models=options.model, port=port, host=options.host)
            )
            for fault in faults:
                stand_in.add_fault(**vars(fault))
            names = ", ".join(model.id for model in stand_in.provider.models)
            print(f"{kind}: {stand_in.base_url} ({names})", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
