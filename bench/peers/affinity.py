"""Conversations over three nodes: `python -m bench.peers.affinity [--conversations 13] [--turns 6]`.

Real engines, real model, a long system prompt that all share. Each turn sends the whole conversation, as chat programs do; the
engines count how much of it they still had in memory (`cached_tokens`, from their own timings). Once as llb routes by itself,
once with a session id for each request that makes it go round from node to node. Exits 1 if routing gains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence

import httpx
from msgspec import Struct

from bench.peers.cluster_fixture import hold, real_model, site
from bench.peers.hop import only
from tests.lab.cluster import Cluster
from tests.lab.host import Inside

MODEL = "smollm2"
RULES = " ".join(
    f"Rule {number}: answer in plain words and never in more than two sentences." for number in range(24)
)
PASTED = "What I found about it: " + " ".join(
    f"in {year} somebody thought otherwise," for year in range(1990, 2000)
)
ANSWER_TOKENS = 24
WARM_REQUESTS = 15
MAX_TRIES = 200

SessionOf = Callable[[], str | None]


class Cost(Struct):
    """Tokens of prompts, and how many of them an engine had in memory."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    by_node: dict[str, int] = {}

    def __str__(self) -> str:
        nodes = ", ".join(f"{name} {count}" for name, count in sorted(self.by_node.items()))
        share = self.cached_tokens / self.prompt_tokens
        return f"{self.cached_tokens} of {self.prompt_tokens} prompt tokens from the cache ({share:.0%}); {nodes}"


class Chatter:
    """Holds conversations, one request at a time, as a program on the client's host."""

    def __init__(self, cluster: Cluster) -> None:
        self._http = httpx.Client(
            base_url=cluster.balancer.host.url,
            transport=Inside(cluster.client),
            headers={"Authorization": f"Bearer {cluster.new_key('inference')}"},
            timeout=120,
        )

    def ask(self, messages: Sequence[dict[str, str]], session: str | None, cost: Cost) -> tuple[str, str]:
        """The answer, and the node that gave it."""
        answer = self._http.post(
            "/v1/chat/completions",
            json={"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0},
            headers={} if session is None else {"x-session-id": session},
        ).raise_for_status()
        told, node = answer.json(), answer.headers["x-llb-node"]
        cost.prompt_tokens += told["usage"]["prompt_tokens"]
        cost.cached_tokens += told["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)
        cost.by_node[node] = cost.by_node.get(node, 0) + 1
        return told["choices"][0]["message"]["content"], node

    def talk(self, name: str, conversations: int, turns: int, session_of: SessionOf) -> Cost:
        """All conversations, turn by turn side by side; `name` makes them others than before."""
        cost = Cost(by_node={})
        told = [
            [
                {"role": "system", "content": RULES},
                {"role": "user", "content": f"{name} {number}: tell me a fact."},
            ]
            for number in range(conversations)
        ]
        for _ in range(turns):
            for messages in told:
                text, _ = self.ask(messages, session_of(), cost)
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": f"And another one, please. {PASTED}"},
                ]
        return cost

    def one_session_a_node(self, nodes: int) -> list[str]:
        """Session ids that lead to as many different nodes."""
        found: dict[str, str] = {}
        for number in range(MAX_TRIES):
            session = f"round-{number}"
            _, node = self.ask([{"role": "user", "content": "Hi"}], session, Cost(by_node={}))
            found.setdefault(node, session)
            if len(found) == nodes:
                return list(found.values())
        sys.exit(f"only {sorted(found)} answer")


def warm(chatter: Chatter, cluster: Cluster) -> None:
    """Load every node's engine, since a cold one is not used while a loaded one has a free slot; one after the other, since
    all of them share this machine's cores and would take each other for slow."""
    for name in cluster.processes:
        only(cluster, name)
        for _ in range(WARM_REQUESTS):
            chatter.ask([{"role": "user", "content": "Hi"}], None, Cost(by_node={}))
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
    with site(lambda _folder: {MODEL: real_model()}) as cluster:
        hold(cluster, MODEL)
        chatter = Chatter(cluster)
        warm(chatter, cluster)
        turn = itertools.cycle(chatter.one_session_a_node(len(cluster.processes)))
        around = chatter.talk("Around", options.conversations, options.turns, lambda: next(turn))
        print(f"round-robin  {around}", flush=True)
        routed = chatter.talk("Routed", options.conversations, options.turns, lambda: None)
        print(f"llb          {routed}", flush=True)
    sys.exit(routed.cached_tokens / routed.prompt_tokens <= around.cached_tokens / around.prompt_tokens)


if __name__ == "__main__":
    main()
