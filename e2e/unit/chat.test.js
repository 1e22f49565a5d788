/** pages/playground: what is answered late, or in another order than it was asked. */

import { createStore } from '/web/core/store.js';
import { readPreference } from '/web/core/preferences.js';
import { createAnswers } from '/web/pages/playground/answers.js';
import { createChat } from '/web/pages/playground/chat.js';
import { open } from '/web/pages/playground/page.js';
import { equal, ok, test } from './runner.js';
import { model } from './samples.js';

const SETTINGS = { system: 'Be brief.', parameters: { temperature: 0.3 }, stop: '' };
const ANSWERS = {
  '/api/presets': { presets: [{ id: 'p', name: 'Brief', models: ['chat'], settings: SETTINGS }] },
  '/api/conversations': { conversations: [] },
  '/api/endpoints': { endpoints: [] },
};
const CHAT = model('chat', { status: 'Ready' });
const OWNER = 'user-1';

const settled = () => new Promise((resolve) => setTimeout(resolve));

/** Conversation of the API, with one question. */
const conversation = (id) => ({
  id,
  title: id,
  pinned: false,
  settings: {},
  leaf_id: `${id}-1`,
  messages: [{ id: `${id}-1`, parent_id: null, role: 'user', text: id }],
  running: [],
});

/** The interface for pages; `answer(path, value)` answers what was asked, in the order that the test wants. */
function makeApp() {
  localStorage.clear();
  const asked = new Map();
  const ask = (path) => new Promise((resolve, reject) => asked.set(path, { resolve, reject }));
  const store = createStore((work) => work());
  store.dispatch({ type: 'me', me: { user: { id: OWNER }, scopes: ['admin'] } });
  const toasts = [];
  return {
    store,
    toasts,
    api: { get: ask, patch: ask, remove: ask },
    can: () => true,
    go() {},
    requestRender: store.requestRender,
    showToast: (toast) => toasts.push(toast),
    async answer(path, value = ANSWERS[path]) {
      ok(asked.has(path), `${path} was not asked`);
      asked.get(path).resolve(structuredClone(value));
      asked.delete(path);
      await settled();
    },
  };
}

const openChat = (app) => {
  const errors = [];
  const chat = createChat(app, { onChange() {}, onError: (error) => errors.push(error) });
  return { chat, errors };
};

const openNew = (app) => open(app, { query: { model: 'chat' } });
const savedSettings = () => readPreference(`new_settings.${OWNER}`);
const tellModels = (app) => app.store.dispatch({ type: 'models', models: [CHAT] });

test('a new conversation gets the preset of its model, whatever comes last', async () => {
  const steps = {
    models: tellModels,
    presets: (app) => app.answer('/api/presets'),
    conversations: (app) => app.answer('/api/conversations'),
    endpoints: (app) => app.answer('/api/endpoints'),
  };
  for (const last of Object.keys(steps)) {
    const app = makeApp();
    const page = openNew(app);
    await settled();
    for (const name of Object.keys(steps)) if (name !== last) await steps[name](app);
    equal(savedSettings(), null, `before ${last}`);
    await steps[last](app);
    equal(savedSettings(), SETTINGS, `after ${last}`);
    page.close();
    await settled();
  }
});

test('a page that was closed before the server has answered changes nothing', async () => {
  const app = makeApp();
  const page = openNew(app);
  await settled();
  page.close();
  tellModels(app);
  for (const path of Object.keys(ANSWERS)) await app.answer(path);
  equal(savedSettings(), null);
});

test('what was opened last is shown, also where it is answered first', async () => {
  const app = makeApp();
  const { chat } = openChat(app);
  chat.open('slow');
  chat.open('quick');
  await app.answer('/api/conversations/slow', conversation('slow'));
  equal([chat.isLoading, chat.current.messages.length], [true, 0]);
  await app.answer('/api/conversations/quick', conversation('quick'));
  equal([chat.isLoading, chat.current.title], [false, 'quick']);
  equal(readPreference(`open_conversation.${OWNER}`), 'quick');
  chat.open('slow');
  chat.create();
  ok(!chat.isLoading, 'a new conversation waits for the one before');
  await app.answer('/api/conversations/slow', conversation('slow'));
  equal([chat.current.title, readPreference(`open_conversation.${OWNER}`)], ['', null]);
  chat.close();
});

test('other tabs are told of a change that is saved after the page was closed', async () => {
  const app = makeApp();
  const { chat, errors } = openChat(app);
  const other = new BroadcastChannel('llb.conversations');
  const told = new Promise((resolve) => other.addEventListener('message', resolve, { once: true }));
  chat.rename('c', 'Another name');
  chat.close();
  await app.answer('/api/conversations/c', null);
  await told;
  other.close();
  equal(errors, []);
});

test('an answer that is left while its connection is broken can be followed again', async () => {
  const followed = [];
  async function* followAnswer(_, id) {
    followed.push(id);
    throw new Error('broken');
  }
  const answers = createAnswers({ followAnswer }, () => {});
  answers.follow('conversation', { id: 'a' });
  await settled();
  answers.detach();
  ok(!answers.has('a'), 'it is still followed');
  answers.follow('conversation', { id: 'a' });
  await settled();
  equal(followed, ['a', 'a']);
  answers.detach();
});
