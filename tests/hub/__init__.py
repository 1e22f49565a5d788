"""Stand-in for the Hugging Face Hub: its protocol on loopback, with fault injection.

    with HubStandIn() as hub:
        commit = hub.add_repo("org/name", {"tiny.gguf": tiny_gguf(300_000), "README.md": b"# hi"})
        ...  # use hub.url as HF_ENDPOINT
        fault = hub.faults.drop(after=100_000, times=2)
        hub.wait_until(lambda: fault.fired == 2, timeout_s=10)
        assert hub.byte_requests()[-1].range_start == 100_000

Like the Hub it has two origins: `hub.url` (API and `/resolve/`), and `hub.cdn_url`, the target of a 302
with a signed link to the bytes of a large file. README.md, *.json and *.txt are not in LFS: they have no
sha256, and their bytes come from the Hub itself after a relative redirect. Adding a repository again makes
a new commit and moves `main`; the old commit stays.

Faults (`hub.faults`): each call adds and returns one. All of them take
    times=k      only the first k times (default: until cleared)
    repo=, file= only there (default: everywhere)
    on=          "api" (JSON), "resolve" (the HEAD or GET that redirects), "bytes" (file content), "any"
`.fired` counts the occurrences, and `.clear()` ends the fault (`hub.faults.clear()` ends all).
A change takes effect at the next chunk of a body that is being sent.

    throttle(bytes_per_s, total=False)     limit the rate per connection, or of all together
    latency(seconds)                       delay the response
    fail(503, retry_after_s=1)             answer with any status
    html(), answer(status, body)           answer with a page, or with anything
    black_hole()                           read the request, and never answer
    expire_links(after_s=0)                let signed links expire early
    omit_headers("X-Repo-Commit")          omit response headers
    stall(after=0)                         stop sending after N bytes of the body
    drop(after=0)                          reset the connection after N bytes of the body
    short(after=0)                         close the connection cleanly after N bytes of the body
    corrupt(at=None)                       flip one byte, at this offset of the file
    ignore_range()                         answer 200 with the complete file
    wrong_range(start=0, total=1)          add to the numbers in Content-Range
    direct()                               send the bytes without a redirect, as some mirrors do

Content: `hub.set_gated(repo)`, `hub.add_token("hf_x", licences=["org/name"])` (other tokens are invalid:
401), `hub.remove_repo(repo)`, `hub.remove_file(repo, file)`, `hub.set_stats(repo, downloads=…, likes=…,
last_modified=…)`.
Network: `hub.stop_listening()` closes both listening sockets and resets open connections, `hub.listen()`
opens them again on the same ports.
Record: `hub.requests`, `hub.byte_requests(file)`, `hub.bytes_sent`, `hub.tokens_seen_by_cdn()`.
`bytes_sent` counts the body bytes given to the kernel; before a reset the stand-in waits until the peer's
kernel has them.

As a separate process: `python -m tests.hub --help`, and `HubProcess` from a test or a benchmark.
"""

from tests.hub.content import smollm2_path, tiny_gguf
from tests.hub.faults import Fault, Faults
from tests.hub.process import HubProcess
from tests.hub.record import RecordedRequest
from tests.hub.server import HubStandIn

__all__ = ["Fault", "Faults", "HubProcess", "HubStandIn", "RecordedRequest", "smollm2_path", "tiny_gguf"]
