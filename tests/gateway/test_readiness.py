"""Readiness: which model a name means, and why one cannot answer now."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb import errors
from llb.catalog import Catalog
from llb.cluster.view import ClusterView
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.readiness import MAX_DOWNLOAD_RETRY_S, ModelReadiness
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.spill.book import SpillBook
from llb.store.database import Database
from llb.wire import Capability, Model, ModelStatus, ReplicaState, SpillRule
from tests.gateway.endpoints.endpoint_fixture import make_endpoint


def model(model_id: str, *capabilities: Capability, **fields: Any) -> Model:
    return Model(
        id=model_id,
        name=model_id,
        repo="test/x",
        recommended_filename="x.gguf",
        size_bytes=1,
        required_memory_bytes=1,
        capabilities=capabilities or (Capability.TEXT_GENERATION,),
        **fields,
    )


class View:
    """The cluster as the balancer knows it; models are available until a status is set."""

    def __init__(self, *models: Model) -> None:
        self.catalog = Catalog(models)
        self.registrations: dict[str, Any] = {}
        self.statuses: dict[str, SimpleNamespace] = {}
        self.replicas: dict[str, ReplicaState] = {}

    def set_status(self, model_id: str, status: ModelStatus, **fields: Any) -> None:
        known = {"eta_s": None, "progress": None, "error": None}
        self.statuses[model_id] = SimpleNamespace(status=status, **{**known, **fields})

    def list_models(self) -> list[Model]:
        return [*self.catalog]

    def find_model(self, name: str) -> Model | None:
        return self.catalog.find_by_name(name)

    def status_of(self, model_id: str) -> SimpleNamespace:
        if model_id not in self.statuses:
            self.set_status(model_id, ModelStatus.AVAILABLE)
        return self.statuses[model_id]

    def replicas_of(self, model_id: str) -> list[tuple[str, SimpleNamespace]]:
        return [
            ("a", SimpleNamespace(state=state)) for name, state in self.replicas.items() if name == model_id
        ]


class Site:
    """Readiness over a view, an admission without nodes, and endpoints that the test adds."""

    def __init__(self, *models: Model) -> None:
        self.view = View(*models)
        self.admission = AdmissionController(8, 1.0)
        self.endpoints = EndpointRegistry(self.admission, PerformanceModel())
        self.rules: dict[str, tuple[SpillRule, ...]] = {}
        self.listed: list[str] = []
        self.on_listed: Callable[[], None] = lambda: None
        book = SpillBook(cast(Database, None))
        book.rules_of = lambda model_id: self.rules.get(model_id, ())  # type: ignore[method-assign]
        context = EndpointContext(self.endpoints, cast(Any, None), redact=str, ensure_listed=self._list)
        self.readiness = ModelReadiness(cast(ClusterView, self.view), self.admission, context, book)

    async def _list(self, name: str) -> None:
        self.listed.append(name)
        self.on_listed()

    def add_endpoint(self, name: str = "box") -> None:
        """Add one that has the model `there`, which is the `m` of the catalogue."""
        self.endpoints.put(make_endpoint(name, mapped={"there": "m"}))


def test_a_name_means_a_model_of_the_catalogue() -> None:
    site = Site(model("m"), model("other"))
    assert site.readiness.resolve_model("m").id == "m"
    site.add_endpoint()
    assert site.readiness.resolve_model("other").id == "other"


def test_names_of_ready_models_are_suggested() -> None:
    site = Site(model("qwen-7b"), model("qwen-72b"), model("llama"))
    for model_id in ("qwen-7b", "llama"):
        site.view.set_status(model_id, ModelStatus.READY)
    with pytest.raises(errors.ModelNotFound, match="Did you mean 'qwen-7b'\\?"):
        site.readiness.resolve_model("Qwen")
    with pytest.raises(errors.ModelNotFound) as unlike:
        site.readiness.resolve_model("zzz")
    assert "mean" not in unlike.value.message


def test_the_prefix_of_an_endpoint_comes_first() -> None:
    site = Site(model("m"))
    site.add_endpoint()
    found = site.readiness.resolve_model("box/there")
    assert (found.id, found.is_external) == ("box/there", True)


async def test_a_name_of_a_cloud_is_looked_up_again_in_its_list() -> None:
    site = Site()
    site.on_listed = site.add_endpoint
    assert (await site.readiness.resolve_listed_model("box/there")).id == "box/there"
    assert site.listed == ["box/there"]
    with pytest.raises(errors.ModelNotFound):
        await site.readiness.resolve_listed_model("box/absent")


# --- chats that are served -----------------------------------------------------------------------------


def test_an_ordinary_chat_is_found_with_its_context() -> None:
    site = Site(model("m", context_length=32_768), model("texts", Capability.EMBEDDING))
    assert site.readiness.find_served_chat("m") is None
    for model_id in ("m", "texts"):
        site.admission.set_capacity("a", model_id, 1, context_length=4096)
    found = site.readiness.find_served_chat("m")
    assert found is not None
    assert (found[0].id, found[1]) == ("m", 4096)
    assert site.readiness.find_served_chat("texts") is None
    assert site.readiness.find_served_chat("unknown") is None


def test_a_context_that_no_node_has_told_is_that_of_the_training() -> None:
    site = Site(model("m", context_length=32_768))
    site.admission.set_capacity("a", "m", 1)
    found = site.readiness.find_served_chat("m")
    assert found is not None
    assert found[1] == site.readiness.max_context_length(found[0]) == 32_768
    assert site.readiness.loaded_context_length(found[0]) is None


def test_chats_with_spill_rules_take_the_general_path() -> None:
    site = Site(model("m"))
    site.admission.set_capacity("a", "m", 1)
    assert site.readiness.find_served_chat("m") is not None
    site.rules["m"] = (SpillRule(target="x", when=("busy",)),)
    assert site.readiness.find_served_chat("m") is None


def test_a_name_that_was_found_follows_the_catalogue() -> None:
    site = Site(model("m"))
    site.admission.set_capacity("a", "m", 1)
    assert site.readiness.find_served_chat("m") is not None
    site.view.catalog = Catalog((model("other"),))
    assert site.readiness.find_served_chat("m") is None


# --- why a model is not ready --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (ModelStatus.AVAILABLE, {}, errors.ModelNotRegistered),
        (ModelStatus.DOWNLOADING, {"progress": 0.5}, errors.ModelDownloading),
        (ModelStatus.ERROR, {"error": "no space"}, errors.ModelFailed),
        (ModelStatus.REGISTERED, {}, errors.ModelPending),
    ],
)
def test_every_status_has_an_error(
    status: ModelStatus, fields: dict[str, Any], expected: type[errors.LlbError]
) -> None:
    site = Site(model("m"))
    site.view.set_status("m", status, **fields)
    with pytest.raises(expected):
        site.readiness.require_ready(site.view.catalog.models[0])
    # One that is served is ready, whatever its status will be.
    site.admission.set_capacity("a", "m", 1)
    site.readiness.require_ready(site.view.catalog.models[0])


def test_a_model_whose_nodes_are_offline_is_not_said_to_wait_for_its_download() -> None:
    site = Site(model("m"))
    site.view.set_status("m", ModelStatus.REGISTERED)
    site.view.replicas["m"] = ReplicaState.READY
    with pytest.raises(errors.NoNodeAvailable, match="its nodes are offline"):
        site.readiness.require_ready(site.view.catalog.models[0])


@pytest.mark.parametrize(
    ("eta_s", "retry_after_s"), [(None, 5), (0.2, 1), (17.6, 18), (9000.0, MAX_DOWNLOAD_RETRY_S)]
)
def test_a_download_says_when_to_ask_again(eta_s: float | None, retry_after_s: int) -> None:
    site = Site(model("m"))
    site.view.set_status("m", ModelStatus.DOWNLOADING, eta_s=eta_s, progress=0.999)
    with pytest.raises(errors.ModelDownloading, match="99%") as refused:
        site.readiness.require_ready(site.view.catalog.models[0])
    assert refused.value.retry_after_s == retry_after_s


def test_an_external_model_without_a_place_does_not_exist() -> None:
    site = Site()
    site.add_endpoint()
    gone = site.readiness.resolve_model("box/there")
    site.endpoints.remove("box")
    with pytest.raises(errors.ModelNotFound):
        site.readiness.require_ready(gone)


@pytest.mark.parametrize(("when", "spills"), [("unavailable", True), ("busy", False)])
def test_a_rule_takes_requests_for_a_model_that_is_not_ready(when: Any, spills: bool) -> None:
    site = Site(model("m"))
    site.rules["m"] = (SpillRule(target="x", when=(when,)),)
    [found] = site.view.catalog
    assert site.readiness.may_spill(found, "unavailable") is spills
    if spills:
        site.readiness.require_ready_or_spill(found)
    else:
        with pytest.raises(errors.ModelNotRegistered):
            site.readiness.require_ready_or_spill(found)


def test_ready_models_are_those_here_and_those_of_endpoints() -> None:
    site = Site(model("m"), model("here"), model("neither"))
    site.view.set_status("here", ModelStatus.READY)
    assert [found.id for found in site.readiness.ready_models()] == ["here"]
    site.add_endpoint()
    assert [found.id for found in site.readiness.ready_models()] == ["m", "here"]


def test_a_model_that_was_never_pulled_gives_way_to_one_of_an_endpoint() -> None:
    site = Site(model("there"))
    site.add_endpoint()
    assert site.readiness.resolve_model("there").id == "box/there"
    # It is wanted here.
    site.view.set_status("there", ModelStatus.DOWNLOADING)
    assert site.readiness.resolve_model("there").id == "there"


def test_models_of_clouds_are_hidden_from_those_who_may_not_use_them() -> None:
    site = Site()
    site.endpoints.put(make_endpoint("cloud", cloud=True))
    [found] = site.readiness.endpoint_models(with_clouds=True)
    assert site.readiness.model_object(found, with_clouds=True).owned_by == "cloud"
    with pytest.raises(errors.ModelNotFound):
        site.readiness.model_object(found, with_clouds=False)
    assert site.readiness.is_for_clouds_only(found)
    site.rules[found.id] = (SpillRule(target="m", when=("busy",)),)
    assert not site.readiness.is_for_clouds_only(found)
