/** Models of endpoints, beside those of the nodes: the Playground offers all that the user may ask. */

// An endpoint that does not say what its models can do has models that chat.
const ASSUMED_CAPABILITIES = ['TextGeneration'];

/** `withAll(state)`: `state` with both kinds of models, the same object until one of them changes. */
export function createEndpointModels(app) {
  let items = [];
  let seen = null;
  let last = { state: null, items: null, merged: null };

  async function load() {
    seen = app.store.state.endpointChanges;
    try {
      items = itemsOf((await app.api.get('/api/endpoints')).endpoints, app.can('cloud'));
      app.requestRender();
    } catch {
      // The models of the nodes are there without them.
    }
  }

  const unsubscribe = app.store.subscribe(({ endpointChanges }) => {
    if (endpointChanges !== seen) load();
  });
  load();

  return {
    close: unsubscribe,
    withAll(state) {
      if (!state.models || !items.length) return state;
      if (last.state !== state || last.items !== items) {
        const models = new Map([...state.models, ...items.map((item) => [item.model.id, item])]);
        last = { state, items, merged: { ...state, models } };
      }
      return last.merged;
    },
  };
}

/** A model of the catalogue that an endpoint answers, too, is in the list already. */
const itemsOf = (endpoints, mayUseClouds) =>
  endpoints
    .filter(({ enabled, cloud }) => enabled && (mayUseClouds || !cloud))
    .flatMap(({ models }) => models.filter(({ mapped_to: mapped }) => !mapped).map(itemOf));

/** In the form of `ModelWithStatus`, as far as the Playground reads it. */
const itemOf = ({ served_as: id, capabilities, context_length: context }) => ({
  model: {
    id,
    name: id,
    capabilities: capabilities.length ? capabilities : ASSUMED_CAPABILITIES,
    context_length: context,
  },
  status: 'Ready',
  replicas: [],
  isElsewhere: true,
});
