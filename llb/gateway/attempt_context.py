"""Attempt context: the parts of the process that attempts use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from llb.cluster.node_traffic import NodeTraffic
from llb.cluster.view import ClusterView
from llb.engine.pool import EnginePool
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.http.client import HttpClient
from llb.gateway.nodes.node_connections import NodeConnections
from llb.gateway.prompt_owners import PromptOwners
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.spill.book import SpillBook
from llb.node.agent import NodeAgent

# Maximum number of concurrent requests without a slot. Each takes a thread of its engine.
MAX_CONCURRENT_TOKEN_COUNTS = 4


class AttemptContext(Struct, frozen=True):
    """Parts that every attempt uses."""

    view: ClusterView
    admission: AdmissionController
    http_client: HttpClient
    agent: NodeAgent
    # The engines of this host.
    engine_pool: EnginePool
    node_connections: NodeConnections
    performance: PerformanceModel
    traffic: NodeTraffic
    endpoints: EndpointContext
    spill_book: SpillBook
    spend: SpendControl
    get_load_timeout_s: Callable[[], float]
    prompt_owners: PromptOwners = field(default_factory=PromptOwners)
    token_count_permits: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_CONCURRENT_TOKEN_COUNTS)
    )
