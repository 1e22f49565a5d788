/** API client. Every failure, including a lost connection, is an `ApiError` with an error code of the API. */

import { toBrowserPath } from '../lib/base-path.js';
import { events } from './sse.js';

// Names the origin of the page to a server behind a proxy that does not pass on the port.
const OWN_HEADERS = { 'x-page-origin': location.origin };

export class ApiError extends Error {
  /** `status` 0: there was no response. `details`: additional fields of the error object. */
  constructor({
    status = 0,
    code = 'network',
    message = '',
    requestId = null,
    retryAfter = null,
    details = {},
  }) {
    super(message || code);
    Object.assign(this, { name: 'ApiError', status, code, requestId, retryAfter, details });
  }
}

/**
 * `onSignedOut` is called when a response shows that the session has ended. `early`: responses that boot.js
 * has asked for while the modules were loading, path → promise; the first `get` of each path takes it.
 */
export function createApi({
  onSignedOut = () => {},
  fetch = globalThis.fetch.bind(globalThis),
  early = globalThis.earlyResponses ?? {},
} = {}) {
  function takeEarly(path) {
    const response = early[path];
    delete early[path];
    return response;
  }

  async function send(method, path, body, signal) {
    let answer;
    try {
      answer = await ((method === 'GET' && takeEarly(path)) ||
        fetch(toBrowserPath(path), {
          method,
          signal,
          credentials: 'same-origin',
          headers: { ...OWN_HEADERS, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
          body: body === undefined ? undefined : JSON.stringify(body),
        }));
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError({ code: 'network' });
    }
    if (answer.ok) return answer;
    const error = await readError(answer);
    if (error.status === 401 && error.code !== 'invalid_credentials') onSignedOut();
    throw error;
  }

  async function call(method, path, body, signal) {
    const answer = await send(method, path, body, signal);
    return answer.status === 204 ? null : answer.json();
  }

  return {
    /** Whether the next `get(path)` returns the data that boot.js requested. */
    isEarly: (path) => path in early,
    get: (path, { signal } = {}) => call('GET', path, undefined, signal),
    post: (path, body = {}) => call('POST', path, body),
    patch: (path, body) => call('PATCH', path, body),
    put: (path, body) => call('PUT', path, body),
    remove: (path) => call('DELETE', path),
    /**
     * POST, or GET without a body, with a response of Server-Sent Events. Yields the parsed data of each
     * event; throws for an `error` event.
     */
    async *stream(path, body, signal) {
      const answer = await send(body === undefined ? 'GET' : 'POST', path, body, signal);
      for await (const { data } of events(answer.body)) {
        if (data === '[DONE]') return;
        const message = JSON.parse(data);
        if (message.error) throw new ApiError({ status: answer.status, ...fields(message.error) });
        yield message;
      }
    },
  };
}

async function readError(answer) {
  const common = {
    status: answer.status,
    requestId: answer.headers.get('x-request-id'),
    retryAfter: Number(answer.headers.get('retry-after')) || null,
  };
  try {
    return new ApiError({ ...common, ...fields((await answer.json()).error) });
  } catch {
    return new ApiError({ ...common, code: 'unexpected', message: `HTTP ${answer.status}` });
  }
}

const fields = ({ message, code, type, ...details }) => ({ message, code: code ?? type, details });
