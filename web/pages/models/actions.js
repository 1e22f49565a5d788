/** Actions on models. Remembers per model which action is running and why the last one failed. */

/**
 * `of(id)` → {busy: name of the running action or null, error: ApiError or null}; the same object until it
 * changes.
 */
export function createModelActions(app) {
  const known = new Map();
  const idle = Object.freeze({ busy: null, error: null });
  let changes = 0;

  const set = (id, value) => {
    known.set(id, Object.freeze(value));
    changes += 1;
    app.requestRender();
  };

  async function run(id, busy, work) {
    if (known.get(id)?.busy) return;
    set(id, { busy, error: null });
    try {
      await work();
      set(id, idle);
    } catch (error) {
      set(id, { busy: null, error });
    }
  }

  async function setPinned(id, pinned) {
    app.sync.showChanged(await app.api.patch(path(id), { pinned }));
  }

  const path = (id) => `/api/models/${encodeURIComponent(id)}`;

  return {
    of: (id) => known.get(id) ?? idle,
    /** Number of changes so far, of all models. */
    changes: () => changes,
    pull: (id) => run(id, 'pull', () => app.api.post('/api/models/register', { model_id: id })),
    cancel: (id) => run(id, 'cancel', () => app.api.remove(path(id))),
    /** Removes the partial files of a cancelled download. */
    discard: (id) => run(id, 'discard', () => app.api.remove(`${path(id)}?discard=true`)),
    load: (id, options) =>
      run(id, 'load', async () => {
        const body = options === undefined ? {} : { options };
        app.sync.showChanged(await app.api.post(`${path(id)}/load`, body));
      }),
    /** A model that is kept loaded is not any more: it would be loaded again. */
    unload: (id, { pinned }) =>
      run(id, 'unload', async () => {
        await app.api.post(`${path(id)}/unload`);
        if (pinned) await setPinned(id, false);
      }),
    /** Keeps a model loaded, and loads it, or lets it be unloaded when it is idle. */
    pin: (id, pinned, { loaded }) =>
      run(id, 'pin', async () => {
        await setPinned(id, pinned);
        if (pinned && !loaded) app.sync.showChanged(await app.api.post(`${path(id)}/load`, {}));
      }),
    /** Rejects on failure: the dialog shows the error. */
    remove: (id) => app.api.remove(`${path(id)}?discard=true`),
    forget(id) {
      if (!known.delete(id)) return;
      changes += 1;
      app.requestRender();
    },
  };
}

/** For `aria-disabled`: a disabled button would lose the focus. */
export const busyAttribute = ({ busy }) => (busy ? 'true' : null);
