"""Prometheus collector for the current state of queues, slots, nodes, engines and replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llb import __version__
from llb.cluster.view import ClusterView
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.spill.book import SpillBook
from llb.wire import EndpointStatus, EngineState, NodeStatus, ReplicaState


class StateCollector(Collector):
    """Collector that reads the state at each scrape."""

    def __init__(
        self,
        view: ClusterView,
        admission: AdmissionController,
        endpoints: EndpointRegistry,
        spill_book: SpillBook,
    ) -> None:
        self._spill_book = spill_book
        self._view = view
        self._admission = admission
        self._endpoints = endpoints

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("llb_build_info", "The running version", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        yield from self._collect_queues()
        yield from self._collect_nodes()
        yield from self._collect_endpoints()
        yield from self._collect_replicas()

    def _collect_endpoints(self) -> Iterator[Metric]:
        by_endpoint = ("endpoint",)
        status = GaugeMetricFamily(
            "llb_endpoint_status", "1 for the status an endpoint has", labels=("endpoint", "status")
        )
        active = GaugeMetricFamily(
            "llb_endpoint_active_requests", "Requests at an endpoint", labels=by_endpoint
        )
        slots = GaugeMetricFamily(
            "llb_endpoint_slots", "Requests at a time that an endpoint may have now", labels=by_endpoint
        )
        latency = GaugeMetricFamily(
            "llb_endpoint_latency_seconds", "Time to the head of its last answer", labels=by_endpoint
        )
        for endpoint in self._endpoints:
            name = endpoint.name
            present = self._endpoints.status_of(endpoint)
            for endpoint_status in EndpointStatus:
                status.add_metric((name, endpoint_status.value), present is endpoint_status)
            active.add_metric((name,), endpoint.shared_slots.busy)
            slots.add_metric((name,), endpoint.shared_slots.slots)
            if endpoint.latency_ms is not None:
                latency.add_metric((name,), endpoint.latency_ms / 1000)
        spilled = CounterMetricFamily(
            "llb_spilled_requests",
            "Requests that a rule sent to another model",
            labels=("model", "target", "trigger"),
        )
        for labels, count in self._spill_book.uses.items():
            spilled.add_metric(labels, count)
        yield from (status, active, slots, latency, spilled)

    def _place_name(self, place_id: str) -> str:
        endpoint = self._endpoints.get(place_id)
        return self._view.node_name_of(place_id) if endpoint is None else endpoint.name

    def _collect_queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("llb_queue_depth", "Requests that wait for a slot", labels=("model",))
        slots = GaugeMetricFamily("llb_slots", "Slots for requests", labels=("node", "model"))
        busy = GaugeMetricFamily("llb_slots_busy", "Slots in use", labels=("node", "model"))
        for queue in self._admission.snapshot():
            is_idle = not queue.queued and not any(usage.busy for usage in queue.nodes)
            if is_idle and self._view.get_model(queue.model_id) is None:
                # One of perhaps thousands of models of endpoints.
                continue
            depth.add_metric((queue.model_id,), queue.queued)
            for usage in queue.nodes:
                labels = (self._place_name(usage.node_id), queue.model_id)
                slots.add_metric(labels, usage.slots)
                busy.add_metric(labels, usage.busy)
        yield from (depth, slots, busy)

    def _collect_nodes(self) -> Iterator[Metric]:
        by_node = ("node",)
        status = GaugeMetricFamily(
            "llb_node_status", "1 for the status a node has", labels=("node", "status")
        )
        draining = GaugeMetricFamily(
            "llb_node_draining", "Whether a node gets no new requests", labels=by_node
        )
        budget = GaugeMetricFamily("llb_node_memory_budget_bytes", "Memory a node offers", labels=by_node)
        used = GaugeMetricFamily("llb_node_memory_used_bytes", "Memory its engines use", labels=by_node)
        disk = GaugeMetricFamily("llb_node_disk_free_bytes", "Disk a node offers", labels=by_node)
        active = GaugeMetricFamily("llb_node_active_requests", "Requests at a node", labels=by_node)
        cpu = GaugeMetricFamily(
            "llb_node_cpu_usage", "Share of a node's processors in use, 0-1", labels=by_node
        )
        memory = GaugeMetricFamily("llb_node_memory_usage", "Share of its memory in use, 0-1", labels=by_node)
        gpu = GaugeMetricFamily("llb_node_gpu_usage", "Share of its GPUs in use, 0-1", labels=by_node)
        engines = GaugeMetricFamily("llb_engines", "Engines of a node by state", labels=("node", "state"))
        engine = GaugeMetricFamily(
            "llb_node_engine_info",
            "The build of llama.cpp of a node",
            labels=("node", "build", "variant", "version"),
        )
        ratio = GaugeMetricFamily(
            "llb_engine_memory_ratio",
            "Memory that a loaded engine reports, relative to its plan",
            labels=("node", "model"),
        )
        for node in self._view.nodes.values():
            name = node.hello.name
            if (build := node.hello.hardware.engine) is not None:
                engine.add_metric((name, build.build, build.variant, build.version), 1)
            for node_status in NodeStatus:
                status.add_metric((name, node_status.value), node.status is node_status)
            draining.add_metric((name,), node.draining)
            budget.add_metric((name,), node.hello.memory_budget_bytes)
            active.add_metric((name,), self._view.traffic.active_requests(node.id))
            if node.heartbeat is not None and node.is_online:
                used.add_metric((name,), node.heartbeat.memory_used_bytes)
                disk.add_metric((name,), node.heartbeat.disk_free_bytes)
                meters = node.heartbeat.meters
                cpu.add_metric((name,), meters.cpu_usage)
                memory.add_metric((name,), meters.memory_usage)
                if meters.gpu_usage is not None:
                    gpu.add_metric((name,), meters.gpu_usage)
                for report in node.engines.values():
                    if report.memory_ratio is not None:
                        ratio.add_metric((name, report.model_id), report.memory_ratio)
            states = Counter(engine.state for engine in node.engines.values()) if node.is_online else {}
            for state in EngineState:
                engines.add_metric((name, state.value), states.get(state, 0))
        yield from (status, draining, budget, used, disk, active, cpu, memory, gpu, engine, engines, ratio)

    def _collect_replicas(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily("llb_replicas", "Replicas on a node by state", labels=("node", "state"))
        progress = GaugeMetricFamily(
            "llb_download_progress", "Share of a replica that has arrived, 0-1", labels=("node", "model")
        )
        for node in self._view.nodes.values():
            states = Counter(report.state for report in node.replicas.values())
            for state in ReplicaState:
                replicas.add_metric((node.hello.name, state.value), states.get(state, 0))
            for model_id, report in node.replicas.items():
                if report.state in (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING):
                    progress.add_metric((node.hello.name, model_id), report.progress)
        yield from (replicas, progress)
