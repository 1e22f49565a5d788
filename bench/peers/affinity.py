"""Conversations over three nodes: `python -m bench.peers.affinity [--conversations 13] [--turns 6]`.

Real engines, real model, a long shared system prompt. Each turn sends the whole conversation, as chat
programs do; the engines count how much of it was in memory (`cached_tokens`, from their own timings).
Runs once with llb's routing, and once with a session id per request that forces round-robin. Exits 1 if
routing gains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence

import httpx
from msgspec import Struct

from bench.peers.cluster_fixture import open_cluster, replicate_model, require_smollm2
from bench.peers.hop import drain_all_but
from tests.lab.cluster import LabCluster
from tests.lab.host import HostTransport

MODEL = "smollm2"
SYSTEM_PROMPT = " ".join(
    f"Rule {number}: answer in plain words and never in more than two sentences." for number in range(24)
)
PASTED_TEXT = "What I found about it: " + " ".join(
    f"in {year} somebody thought otherwise," for year in range(1990, 2000)
)
ANSWER_TOKENS = 24
WARM_UP_REQUESTS = 15
MAX_TRIES = 200

SessionIdSource = Callable[[], str | None]


class CacheUsage(Struct):
    """Prompt tokens, and how many of them an engine had in memory."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    by_node: dict[str, int] = {}

    def __str__(self) -> str:
        nodes = ", ".join(f"{name} {count}" for name, count in sorted(self.by_node.items()))
        share = self.cached_tokens / self.prompt_tokens
        return (
            f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens from the cache ({share:.0%});"
            f" {nodes}"
        )


class ConversationClient:
    """Holds conversations, one request at a time, as a program on the client's host."""

    def __init__(self, cluster: LabCluster) -> None:
        self._http = httpx.Client(
            base_url=cluster.balancer.host.url,
            transport=HostTransport(cluster.client),
            headers={"Authorization": f"Bearer {cluster.create_key('inference')}"},
            timeout=120,
        )

    def send_chat(
        self, messages: Sequence[dict[str, str]], session: str | None, usage: CacheUsage
    ) -> tuple[str, str]:
        """Return the answer, and the node that gave it."""
        answer = self._http.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0},
            headers={} if session is None else {"x-session-id": session},
        ).raise_for_status()
        told, node = answer.json(), answer.headers["x-llb-node"]
        usage.prompt_tokens += told["usage"]["prompt_tokens"]
        usage.cached_tokens += told["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        usage.by_node[node] = usage.by_node.get(node, 0) + 1
        return told["choices"][0]["message"]["content"], node

    def run_conversations(
        self, name: str, conversations: int, turns: int, next_session_id: SessionIdSource
    ) -> CacheUsage:
        """Run all conversations in parallel, turn by turn; `name` makes them different from earlier
        ones.
        """
        cost = CacheUsage(by_node={})
        told = [
            [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": f"{name} {number}: tell me a fact."},
            ]
            for number in range(conversations)
        ]
        for _ in range(turns):
            for messages in told:
                text, _ = self.send_chat(messages, next_session_id(), cost)
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": f"And another one, please. {PASTED_TEXT}"},
                ]
        return cost

    def find_session_per_node(self, nodes: int) -> list[str]:
        """Return session ids that lead to different nodes."""
        found: dict[str, str] = {}
        for number in range(MAX_TRIES):
            session = f"round-{number}"
            _, node = self.send_chat([{"role": "user", "content": "Hi"}], session, CacheUsage(by_node={}))
            found.setdefault(node, session)
            if len(found) == nodes:
                return list(found.values())
        sys.exit(f"only {sorted(found)} answer")


def warm_up_engines(client: ConversationClient, cluster: LabCluster) -> None:
    """Load the engine of every node, since a cold one is not used while a loaded one has a free slot.
    One after the other: all share the cores of this machine, and would measure each other as slow.
    """
    for name in cluster.processes:
        drain_all_but(cluster, name)
        for _ in range(WARM_UP_REQUESTS):
            client.send_chat([{"role": "user", "content": "Hi"}], None, CacheUsage(by_node={}))
    for view in cluster.node_views().values():
        cluster.balancer.http.patch(f"/api/nodes/{view['id']}", json={"draining": False}).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # No multiple of the number of nodes: else going round would lead each conversation to its node again.
    parser.add_argument("--conversations", type=int, default=13)
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    with open_cluster(lambda _folder: {MODEL: require_smollm2()}) as cluster:
        replicate_model(cluster, MODEL)
        chatter = ConversationClient(cluster)
        warm_up_engines(chatter, cluster)
        turn = itertools.cycle(chatter.find_session_per_node(len(cluster.processes)))
        around = chatter.run_conversations("Around", options.conversations, options.turns, lambda: next(turn))
        print(f"round-robin  {around}", flush=True)
        routed = chatter.run_conversations("Routed", options.conversations, options.turns, lambda: None)
        print(f"llb          {routed}", flush=True)
    sys.exit(routed.cached_tokens / routed.prompt_tokens <= around.cached_tokens / around.prompt_tokens)


if __name__ == "__main__":
    main()
