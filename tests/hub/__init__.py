"""A stand-in for the Hugging Face Hub: its protocol on loopback, with faults on demand.

    with HubStandIn() as hub:
        commit = hub.add_repo("org/name", {"tiny.gguf": tiny_gguf(300_000), "README.md": b"# hi"})
        ...                                   # point the code at hub.url (as HF_ENDPOINT)
        fault = hub.faults.drop(after=100_000, times=2)          # the connection is reset, twice
        hub.wait_until(lambda: fault.fired == 2, timeout_s=10)   # no sleeping for luck
        assert hub.byte_requests()[-1].range_start == 100_000

Two origins, as in the real world: `hub.url` (API and `/resolve/`) and `hub.cdn_url`, where a 302 with a signed
link leads for the bytes of a large file. README.md, *.json and *.txt are not LFS: no sha256, bytes from the Hub itself
behind a relative redirect. A repo added again gets a new commit and moves `main`; the old commit stays.

Faults (`hub.faults`): each call adds one and returns it; all take
    times=k      only the first k times (default: until cleared)
    repo=, file= only there (default: everywhere)
    on=          "api" (JSON), "resolve" (the HEAD or GET that redirects), "bytes" (a file's content), "any"
and a fault counts in `.fired` how often it happened, and ends with `.clear()` (or `hub.faults.clear()` for all).
A fault that is added or cleared while a body is being sent works at its next piece.

    throttle(bytes_per_s, total=False)   each connection, or all together   stall(after=0)   silence after N body bytes
    latency(seconds)                     before the answer                  drop(after=0)    RST after N body bytes
    fail(503, retry_after_s=1)           any status                         short(after=0)   clean close after N body bytes
    html() / answer(status, body)        HTML or anything with status 200   corrupt(at=None) one byte flipped (offset in the file)
    black_hole()                         reads the request, never answers   ignore_range()   200 and everything
    expire_links(after_s=0)              signed links end early             wrong_range(start=0, total=1)  added to Content-Range
    omit_headers("X-Repo-Commit")        left out of the answer             direct()         bytes without a redirect, as some mirrors

The state of things: `hub.set_gated(repo)`, `hub.add_token("hf_x", licences=["org/name"])` (a token not added is invalid: 401),
`hub.remove_repo(repo)`, `hub.remove_file(repo, file)`, `hub.set_stats(repo, downloads=…, likes=…, last_modified=…)`,
`hub.stop_listening()` (both listening sockets closed, open connections reset) and `hub.listen()` (again on the same ports).
What happened: `hub.requests` (all), `hub.byte_requests(file)`, `hub.bytes_sent`, `hub.tokens_seen_by_cdn()`.
`bytes_sent` counts body bytes handed to the kernel; before RST the stand-in waits until the peer's kernel has them.

By hand, or as a process of its own: `python -m tests.hub --help`, and `HubProcess` for that from a test or benchmark.
"""

from tests.hub.content import smollm2_path, tiny_gguf
from tests.hub.faults import Fault, Faults
from tests.hub.process import HubProcess
from tests.hub.record import RecordedRequest
from tests.hub.server import HubStandIn

__all__ = ["Fault", "Faults", "HubProcess", "HubStandIn", "RecordedRequest", "smollm2_path", "tiny_gguf"]
