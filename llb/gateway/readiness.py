"""Readiness of models: which model a name means, and whether it can answer now."""

from __future__ import annotations

import difflib

from llb import errors
from llb.catalog import Catalog
from llb.cluster.view import ClusterView
from llb.engine.planning.engine_plan import engine_kind_of
from llb.engine.spec import EngineKind
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.exchange import EndpointContext
from llb.gateway.spill.book import SpillBook
from llb.policy.endpoints.spill import has_rule, trigger_of
from llb.texts.coded_text import CodedText, capitalized
from llb.wire import Capability, Model, ModelObject, ModelStatus, ReplicaState, SpillTrigger, TemplateSupport

ETA_UNKNOWN_RETRY_S = 5
MAX_DOWNLOAD_RETRY_S = 60
# Maximum number of suggestions in the error about an unknown name.
MAX_SIMILAR_NAMES = 3
# Maximum number of names, as clients write them, in the cache.
MAX_KNOWN_NAMES = 1000


class ModelReadiness:
    """Resolves the models that programs ask for, and refuses those that are not Ready."""

    def __init__(
        self,
        view: ClusterView,
        admission: AdmissionController,
        endpoints: EndpointContext,
        spill_book: SpillBook,
    ) -> None:
        self._spill_book = spill_book
        self._view = view
        self._admission = admission
        self._endpoints = endpoints.registry
        self._ensure_listed = endpoints.ensure_listed
        # Cache of models for chats, by the name in the request; cleared with the catalogue.
        self._chat_models: dict[str, Model] = {}
        self._catalog: Catalog | None = None

    def ready_models(self) -> list[Model]:
        """Return the models of the catalogue that can answer, here or at an endpoint."""
        return [
            model
            for model in self._view.list_models()
            if self._view.status_of(model.id).status is ModelStatus.READY
            or self._endpoints.has_usable_place(model.id)
        ]

    def own_model_objects(self) -> list[ModelObject]:
        """Return the models of the catalogue that can be used."""
        return [self._own_model_object(model) for model in self.ready_models()]

    def encode_endpoint_models(self, *, with_clouds: bool) -> bytes:
        """Return the models that only endpoints have, as JSON objects with commas between them."""
        return self._endpoints.encode_models(with_clouds=with_clouds)

    def _own_model_object(self, model: Model) -> ModelObject:
        registration = self._view.registrations.get(model.id)
        return ModelObject(
            id=model.id,
            created=0 if registration is None else int(registration.created_at),
            capabilities=self.capabilities_of(model),
        )

    def endpoint_models(self, *, with_clouds: bool) -> list[Model]:
        """Return the models that only endpoints have."""
        return self._endpoints.usable_models(with_clouds=with_clouds)

    def model_object(self, model: Model, *, with_clouds: bool) -> ModelObject:
        """Return one model as it is listed. Raises `ModelNotFound` for one that the caller may not use."""
        if model.is_external and not self._endpoints.is_visible(model.id, with_clouds=with_clouds):
            raise errors.ModelNotFound(model.id)
        places = self._endpoints.places_of(model.id)
        if not model.is_external or not places:
            return self._own_model_object(model)
        return ModelObject(id=model.id, owned_by=next(iter(places.values())).endpoint.name)

    def resolve_model(self, name: str) -> Model:
        """Return the model that `name` means, in any state; raises `ModelNotFound`.

        A name with the prefix of an endpoint comes first, then the catalogue, then what only one endpoint
        has. A model that is in the catalogue but was never pulled gives way to one that an endpoint has.
        """
        if self._endpoints.is_empty:
            model = self._view.find_model(name)
        else:
            model = self._endpoints.find_by_full_name(name) or self._view.find_model(name)
            if model is None or self._is_only_listed(model):
                model = self._endpoints.find_by_bare_name(name) or model
        if model is None:
            raise errors.ModelNotFound(name, self._similar_names(name))
        return model

    def find_served_chat(self, name: str) -> tuple[Model, int | None] | None:
        """Return the result of `resolve_model` and the longest context, for an ordinary chat model.

        Ordinary means: in the catalogue, served, and without spill rules. None for all others, which take the
        general path, where errors are raised too.
        """
        if self._view.catalog is not self._catalog or len(self._chat_models) > MAX_KNOWN_NAMES:
            self._catalog = self._view.catalog
            self._chat_models.clear()
        model = self._chat_models.get(name)
        if model is None:
            model = self._catalog.find_by_name(name)
            if model is None or engine_kind_of(model.capabilities) is not EngineKind.CHAT:
                return None
            self._chat_models[name] = model
        queue = self._admission.find_queue(model.id)
        if queue is None or not queue.present_nodes or self._spill_book.rules_of(model.id):
            return None
        if not self._endpoints.is_empty and self._endpoints.find_by_full_name(name) is not None:
            return None
        return model, queue.max_context_length or model.context_length

    def _similar_names(self, name: str) -> list[str]:
        """Return the ids of Ready models that `name` may mean: first those that begin like it."""
        ids = [model.id for model in self.ready_models()]
        wanted = name.lower()
        alike = [model_id for model_id in ids if wanted and model_id.startswith(wanted)]
        alike += difflib.get_close_matches(wanted, ids, n=MAX_SIMILAR_NAMES)
        return list(dict.fromkeys(alike))[:MAX_SIMILAR_NAMES]

    def capabilities_of(self, model: Model) -> tuple[Capability, ...]:
        """Return the capabilities of a model, including those of its chat template if its files are known."""
        return self._view.capabilities_of(model)

    def template_support(self, model: Model) -> TemplateSupport | None:
        """Return what the chat template of a model supports; None while that is unknown."""
        return self._view.template_support_of(model.id)

    async def resolve_listed_model(self, name: str) -> Model:
        """Like `resolve_model`, after rereading the list of the cloud that `name` has as its prefix."""
        try:
            return self.resolve_model(name)
        except errors.ModelNotFound:
            await self._ensure_listed(name)
            return self.resolve_model(name)

    def _is_only_listed(self, model: Model) -> bool:
        return (
            not model.is_external
            and not self._admission.serving_node_count(model.id)
            and self._view.status_of(model.id).status is ModelStatus.AVAILABLE
            and not self._endpoints.places_of(model.id)
        )

    def loaded_context_length(self, model: Model) -> int | None:
        """Return the longest context of the nodes that have `model` loaded; None if that is not known."""
        return self._admission.max_context_length(model.id)

    def max_context_length(self, model: Model) -> int | None:
        """Return the longest context that `model` can have on any node, in tokens; None if that is not known.

        For a model that is not loaded, the length for which it was trained.
        """
        return self._admission.max_context_length(model.id) or model.context_length

    def may_spill(self, model: Model, trigger: SpillTrigger) -> bool:
        """Whether a rule sends requests for `model` elsewhere in this case."""
        rules = self._spill_book.rules_of(model.id)
        return bool(rules) and has_rule(rules, trigger)

    def is_for_clouds_only(self, model: Model) -> bool:
        """Whether requests for `model` reach clouds only, so that URLs in them may pass."""
        places = self._endpoints.places_of(model.id).values()
        return (
            model.is_external
            and bool(places)
            and all(place.endpoint.is_cloud for place in places)
            and not self._spill_book.rules_of(model.id)
        )

    def require_ready_or_spill(self, model: Model) -> None:
        """Like `require_ready`, unless a rule sends the request elsewhere in this case."""
        try:
            self.require_ready(model)
        except errors.LlbError as error:
            trigger = trigger_of(error)
            if trigger is None or not self.may_spill(model, trigger):
                raise

    def require_ready(self, model: Model) -> None:
        """Raise the error of the API for every status but Ready."""
        if self._admission.serving_node_count(model.id):
            # A served model is Ready. Deriving the status would visit all nodes, for every request.
            return
        if self._endpoints.places_of(model.id) and (
            model.is_external or self._view.status_of(model.id).status is ModelStatus.AVAILABLE
        ):
            raise self._endpoints.unavailable_error(model.id)
        if model.is_external:
            raise errors.ModelNotFound(model.id)
        now = self._view.status_of(model.id)
        match now.status:
            case ModelStatus.READY:
                return
            case ModelStatus.AVAILABLE:
                raise errors.ModelNotRegistered(model.id)
            case ModelStatus.DOWNLOADING:
                retry_after_s = ETA_UNKNOWN_RETRY_S
                if now.eta_s is not None:
                    retry_after_s = max(1, min(MAX_DOWNLOAD_RETRY_S, round(now.eta_s)))
                raise errors.ModelDownloading(model.id, now.progress or 0.0, retry_after_s=retry_after_s)
            case ModelStatus.ERROR:
                reason = now.error or CodedText("download_failed", "the download failed")
                raise errors.ModelFailed(
                    CodedText(
                        "model_cannot_run",
                        "Model '{model}' cannot run. {cause}. Pull it again to retry",
                        model=model.id,
                        cause=capitalized(reason),
                    )
                )
            case ModelStatus.REGISTERED:
                if any(report.state is ReplicaState.READY for _, report in self._view.replicas_of(model.id)):
                    reason = now.error or CodedText("nodes_offline", "its nodes are offline")
                    raise errors.NoNodeAvailable(
                        CodedText(
                            "model_not_available", "Model '{model}': {cause}", model=model.id, cause=reason
                        )
                    )
                reason = now.error or CodedText("waiting_for_download", "waiting for its download to begin")
                raise errors.ModelPending(
                    CodedText(
                        "model_pending",
                        "Model '{model}' is registered: {cause}",
                        model=model.id,
                        cause=reason,
                    )
                )
