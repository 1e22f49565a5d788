/** Conversations, answers and presets of the user on the server. */

import { buildUrl } from '../../../core/router.js';

export function createClient(api) {
  const path = (id, ...rest) =>
    ['/api/conversations', id, ...rest].map((part, at) => (at ? encodeURIComponent(part) : part)).join('/');
  return {
    list: (query) => api.get(buildUrl('/api/conversations', { q: query })),
    get: (id) => api.get(path(id)),
    change: (id, patch) => api.patch(path(id), patch),
    remove: (id) => api.remove(path(id)),
    removeMessage: (id, messageId) => api.remove(`${path(id)}/messages/${encodeURIComponent(messageId)}`),
    importAll: (conversations) => api.post('/api/conversations/import', { conversations }),
    beginAnswer: (id, request, signal) => api.stream(`${path(id)}/answers`, request, signal),
    followAnswer: (id, answerId, signal) => api.stream(path(id, 'answers', answerId), undefined, signal),
    stopAnswer: (id, answerId) => api.remove(path(id, 'answers', answerId)),
    presets: () => api.get('/api/presets'),
    putPreset: (preset) => api.put(`/api/presets/${encodeURIComponent(preset.id)}`, preset),
    removePreset: (id) => api.remove(`/api/presets/${encodeURIComponent(id)}`),
  };
}
