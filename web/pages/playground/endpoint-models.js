/** Models of endpoints: with those of the nodes, the Playground offers all that the user may ask. */

// An endpoint that does not say what its models can do has models that chat.
const ASSUMED_CAPABILITIES = ['TextGeneration'];

/**
 * `withAll(state)`: `state` with both kinds of models, the same object until one of them changes.
 * `areAllKnown()`: whether both kinds are there, as far as they can be had.
 */
export function createEndpointModels(app) {
  let items = [];
  let isAnswered = false;
  let seen = null;
  let last = { state: null, items: null, merged: null };

  async function load() {
    seen = app.store.state.endpointChanges;
    try {
      const { endpoints } = await app.api.get('/api/endpoints');
      items = endpoints
        .filter(({ enabled, cloud }) => enabled && (app.can('cloud') || !cloud))
        .flatMap((endpoint) => endpoint.models.map((model) => itemOf(model, endpoint)));
    } catch {
      // The models of the nodes are there without them.
    }
    isAnswered = true;
    app.requestRender();
  }

  const unsubscribe = app.store.subscribe(({ endpointChanges }) => {
    if (endpointChanges !== seen) load();
  });
  load();

  return {
    close: unsubscribe,
    areAllKnown: () => isAnswered && app.store.state.models !== null,
    withAll(state) {
      if (!state.models || !items.length) return state;
      if (last.state !== state || last.items !== items) {
        last = { state, items, merged: { ...state, models: merge(state.models, items) } };
      }
      return last.merged;
    },
  };
}

/**
 * `models` with those of endpoints. One that is the same as a model of the catalogue is in the list already:
 * it also answers for a model that is not pulled.
 */
function merge(models, items) {
  const merged = new Map(models);
  for (const { mappedTo, ...item } of items) {
    const known = merged.get(mappedTo);
    if (!mappedTo) merged.set(item.model.id, item);
    else if (known && known.status !== 'Ready') {
      const model = {
        ...known.model,
        context_length: item.model.context_length ?? known.model.context_length,
      };
      merged.set(mappedTo, { ...item, model, replicas: known.replicas });
    }
  }
  return merged;
}

/** In the form of `ModelWithStatus`, as far as the Playground reads it; `source` is what answers. */
const itemOf = ({ served_as: id, capabilities, context_length: context, mapped_to: mappedTo }, endpoint) => ({
  model: {
    id,
    name: id,
    capabilities: capabilities.length ? capabilities : ASSUMED_CAPABILITIES,
    context_length: context,
  },
  status: 'Ready',
  replicas: [],
  isElsewhere: true,
  source: { name: endpoint.name, kind: endpoint.kind, cloud: endpoint.cloud, status: endpoint.status },
  mappedTo,
});
