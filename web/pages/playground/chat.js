/** Conversations, answers and presets of the Playground: those that are open, and actions of the user. */

import { readPreference, savePreference } from '../../core/preferences.js';
import { createAnswers } from './answers.js';
import { continuationBody, requestBody } from './chat-request.js';
import { dropOldest, scaleOf } from './context.js';
import { createBrowserStorage } from './conversations/browser-storage.js';
import { createClient } from './conversations/client.js';
import { copySettings, newConversation, newMessage, toStored } from './conversations/conversation.js';
import {
  leafAfterMerge,
  mergeMessages,
  newestLeaf,
  pathTo,
  withoutMessage,
} from './conversations/message-tree.js';
import { importSteps } from './conversations/transfer.js';

const SETTINGS_DELAY_MS = 500;
// While answers are generated that this page does not follow.
const POLL_MS = 2000;
const TABS = 'llb.conversations';

/**
 * `onChange(message?, {ended}?)`: something changed; with a message, its answer did. `onError(error)`: a
 * change could not be saved. A column shows one version of the conversation, with a model of its own:
 * {leafId, model}; the first has the selected model.
 */
export function createChat(app, { onChange, onError }) {
  const owner = app.store.state.me.user.id;
  const client = createClient(app.api);
  const answers = createAnswers(client, (message, change) => {
    if (change.ended || change.begun) changed();
    onChange(message, change);
  });
  // Other tabs of this browser.
  const tabs = new BroadcastChannel(TABS);
  let settingsTimer = null;
  let pollTimer = null;
  let isClosed = false;
  let isStarting = false;
  // The conversation that is being loaded.
  let loading = null;
  // Of the last search: an earlier one may be answered later.
  let listNumber = 0;

  const chat = {
    client,
    // Null until the server has answered.
    summaries: null,
    query: '',
    presets: [],
    current: newConversation(readPreference(`new_settings.${owner}`) ?? undefined),
    columns: [{ leafId: null, model: null }],
    get isLoading() {
      return isStarting || loading === chat.current;
    },
    loadError: null,
    // Changes that could not be saved.
    isUnsaved: false,
    owner,
    messagesOf: (column) => pathTo(chat.current.messages, column.leafId),
    isRunning: (column) => chat.messagesOf(column).at(-1)?.isRunning === true,
    get isBusy() {
      return chat.columns.some(chat.isRunning);
    },
    refresh,
    search,
    open,
    create,
    send,
    regenerate,
    continueAnswer,
    stop,
    showVersion,
    removeMessage,
    rename: (id, title) => change(id, { title }),
    pin: (id, pinned) => change(id, { pinned }),
    remove,
    importAll,
    settingsChanged,
    setColumns,
    savePreset,
    removePreset,
    close,
  };

  // --- list ---------------------------------------------------------------------------------------

  /** Loads the list, and the open conversation. */
  async function refresh() {
    await Promise.all([loadList(), chat.current.isStored ? reload(chat.current.id) : null]);
  }

  async function loadList() {
    if (isClosed) return;
    listNumber += 1;
    const number = listNumber;
    clearTimeout(pollTimer);
    try {
      const { conversations } = await client.list(chat.query);
      if (isClosed || number !== listNumber) return;
      chat.summaries = conversations;
      chat.loadError = null;
      if (conversations.some(({ id, running }) => running && id !== chat.current.id))
        pollTimer = setTimeout(loadList, POLL_MS);
    } catch (error) {
      if (isClosed || number !== listNumber) return;
      chat.loadError = error;
    }
    onChange();
  }

  function search(query) {
    chat.query = query;
    return loadList();
  }

  /** This tab has changed something: the list here and in other tabs is out of date. */
  function changed() {
    tell({ id: chat.current.id });
    loadList();
  }

  /** Tells the other tabs; a change may be saved after this page was closed. */
  function tell(message) {
    if (!isClosed) return tabs.postMessage(message);
    const channel = new BroadcastChannel(TABS);
    channel.postMessage(message);
    channel.close();
  }

  tabs.addEventListener('message', ({ data }) => {
    loadList();
    if (data.presets) loadPresets();
    if (data.id === chat.current.id) reload(data.id);
  });

  // --- conversations ------------------------------------------------------------------------------

  /** Shows the conversation that was open last, after those of an earlier version were moved. */
  async function start({ isNew }) {
    isStarting = true;
    const presets = loadPresets();
    await moveFromBrowser();
    isStarting = false;
    const last = isNew ? null : readPreference(`open_conversation.${owner}`);
    if (last) await open(last, { isStart: true });
    await Promise.all([presets, loadList()]);
  }
  chat.start = start;

  async function moveFromBrowser() {
    const storage = createBrowserStorage(owner);
    for (const { key, conversation } of storage.read()) {
      try {
        for (const step of importSteps([conversation])) await client.importAll(step);
        storage.remove(key);
      } catch (error) {
        onError(error);
        return;
      }
    }
  }

  async function open(id, { isStart = false } = {}) {
    leave();
    const opened = { ...newConversation(), id, isStored: true };
    chat.current = opened;
    chat.columns = [{ leafId: null, model: null }];
    loading = opened;
    onChange();
    // Meanwhile the user may have opened another one, or another page.
    const isCurrent = () => chat.current === opened && !isClosed;
    try {
      const found = await client.get(id);
      if (!isCurrent()) return;
      adopt(found);
      savePreference(`open_conversation.${owner}`, id);
    } catch (error) {
      if (!isCurrent()) return;
      chat.current = newConversation();
      if (!isStart || error.status !== 404) onError(error);
    }
    loading = null;
    loadList();
    onChange();
  }

  async function reload(id) {
    try {
      const found = await client.get(id);
      if (chat.current.id === id && !isClosed) adopt(found);
    } catch (error) {
      if (error.status !== 404 || chat.current.id !== id || isClosed) return;
      // Deleted in another tab.
      create();
    }
    onChange();
  }

  /** Takes over the server's messages; versions of other tabs are added. */
  function adopt({ title, pinned, settings, leaf_id: leafId, messages, running }) {
    const { current } = chat;
    const isFirst = !current.messages.length;
    Object.assign(current, { title, pinned, isStored: true });
    if (isFirst) current.settings = copySettings(settings);
    current.messages = mergeMessages(current.messages, messages, answers.has);
    for (const column of chat.columns)
      column.leafId = leafAfterMerge(current.messages, column.leafId, leafId);
    for (const message of current.messages) {
      message.isRunning = running.includes(message.id) || answers.has(message.id);
      if (running.includes(message.id)) answers.follow(current.id, message);
    }
    onChange();
  }

  function create(settings = chat.current.settings) {
    leave();
    chat.current = newConversation(settings);
    chat.columns = chat.columns.map(({ model }) => ({ leafId: null, model }));
    chat.isUnsaved = false;
    savePreference(`open_conversation.${owner}`, null);
    savePreference(`new_settings.${owner}`, chat.current.settings);
    loadList();
    onChange();
  }

  /** The server continues the answers of the conversation that is left. */
  function leave() {
    flushSettings();
    answers.detach();
  }

  async function change(id, patch) {
    try {
      await client.change(id, patch);
      if (id === chat.current.id) Object.assign(chat.current, patch);
      changed();
    } catch (error) {
      onError(error);
    }
  }

  async function remove(id) {
    await client.remove(id);
    if (id === chat.current.id) {
      chat.current.isStored = false;
      tell({ id });
      create();
    } else changed();
  }

  async function importAll(conversations) {
    const added = { conversations: 0, messages: 0 };
    try {
      for (const step of importSteps(conversations)) {
        const more = await client.importAll(step);
        added.conversations += more.conversations;
        added.messages += more.messages;
      }
    } finally {
      changed();
    }
    return added;
  }

  // --- settings and presets -----------------------------------------------------------------------

  function settingsChanged() {
    if (!chat.current.messages.length) return savePreference(`new_settings.${owner}`, chat.current.settings);
    clearTimeout(settingsTimer);
    settingsTimer = setTimeout(flushSettings, SETTINGS_DELAY_MS);
  }

  async function flushSettings() {
    if (settingsTimer === null) return;
    clearTimeout(settingsTimer);
    settingsTimer = null;
    const { id, settings } = chat.current;
    try {
      await client.change(id, { settings });
      if (chat.current.id === id) chat.isUnsaved = false;
    } catch (error) {
      if (chat.current.id === id) chat.isUnsaved = true;
      onError(error);
    }
  }

  async function loadPresets() {
    try {
      ({ presets: chat.presets } = await client.presets());
      onChange();
    } catch (error) {
      if (!isClosed) onError(error);
    }
  }

  async function savePreset(preset) {
    await client.putPreset(preset);
    tell({ presets: true });
    await loadPresets();
  }

  async function removePreset(id) {
    await client.removePreset(id);
    tell({ presets: true });
    await loadPresets();
  }

  // --- messages -----------------------------------------------------------------------------------

  /** Asks every column's model; `edited`: the question that the draft replaces. */
  function send(draft, models, edited = null) {
    const { current } = chat;
    if (!current.messages.length) savePreference(`new_settings.${owner}`, null);
    savePreference(`open_conversation.${owner}`, current.id);
    const shared = new Map();
    chat.columns.forEach((column, at) => {
      const parentId = edited ? edited.parent_id : column.leafId;
      if (!shared.has(parentId)) {
        const { text, images, files } = draft;
        const question = newMessage('user', parentId, { text: text.trim(), images, files, unsaved: true });
        shared.set(parentId, question);
        current.messages.push(question);
      }
      column.leafId = shared.get(parentId).id;
      answer(column, models[at]);
    });
  }

  /** Generates an answer to the end of the column, a question. */
  function answer(column, model) {
    const { current } = chat;
    const question = chat.messagesOf(column).at(-1);
    const message = newMessage('assistant', question.id, { model });
    current.messages.push(message);
    column.leafId = message.id;
    begin(column, message, question.unsaved ? question : null);
  }

  async function begin(column, message, question) {
    const { current } = chat;
    const { settings } = current;
    const asked = withinContext(pathTo(current.messages, message.parent_id));
    const request = {
      answer_id: message.id,
      parent_id: message.parent_id,
      ...(question ? { question: toStored(question) } : {}),
      // The first column is what the conversation shows later.
      sets_leaf: column === chat.columns[0],
      settings,
      request: requestBody(message.model, settings, asked),
    };
    current.isStored = true;
    const ending = answers.begin(current.id, message, request);
    onChange();
    await ending;
    if (question && !message.unsaved) question.unsaved = false;
    if (current === chat.current) chat.isUnsaved = current.messages.some(({ unsaved }) => unsaved);
    onChange();
  }

  const withinContext = (messages) => {
    const { dropsOldest, settings } = chat.current;
    return dropsOldest
      ? dropOldest(settings, messages, dropsOldest.contextLength, dropsOldest.scale)
      : messages;
  };

  /** Another version of an answer, or an answer to a question that has none. */
  function regenerate(column, message, model) {
    const path = chat.messagesOf(column);
    const question = message.role === 'user' ? message : path[path.indexOf(message) - 1];
    if (!question) return;
    // One that was never sent leaves nothing behind.
    if (message.role === 'assistant' && message.unsaved)
      chat.current.messages = chat.current.messages.filter((each) => each !== message);
    column.leafId = question.id;
    answer(column, model);
  }

  /** Regenerates after a refusal for its length, without the oldest messages. */
  function regenerateShorter(column, message, model) {
    const { context_length: contextLength, prompt_tokens: promptTokens } = message.error;
    const asked = withinContext(pathTo(chat.current.messages, message.parent_id));
    const before = chat.current.dropsOldest?.scale ?? 1;
    const scale = scaleOf(chat.current.settings, asked, promptTokens);
    chat.current.dropsOldest = { contextLength, scale: Math.max(scale, before * 1.1) };
    regenerate(column, message, model);
  }
  chat.regenerateShorter = regenerateShorter;

  function continueAnswer(column, message, model) {
    const { current } = chat;
    const request = {
      answer_id: message.id,
      parent_id: message.parent_id,
      continues: true,
      request: continuationBody(model, current.settings, withinContext(pathTo(current.messages, message.id))),
    };
    column.leafId = message.id;
    answers.begin(current.id, message, request).then(() => {
      message.unsaved = false;
      onChange();
    });
    onChange();
  }

  function stop() {
    for (const column of chat.columns) {
      const last = chat.messagesOf(column).at(-1);
      if (last?.isRunning)
        client.stopAnswer(chat.current.id, last.id).catch((error) => {
          // It has ended meanwhile.
          if (error.status !== 404) onError(error);
        });
    }
  }

  function showVersion(column, message) {
    column.leafId = newestLeaf(chat.current.messages, message.id);
    if (column === chat.columns[0] && chat.current.isStored)
      client.change(chat.current.id, { leaf_id: column.leafId }).catch(onError);
    onChange();
  }

  async function removeMessage(message) {
    const { current } = chat;
    if (!message.unsaved) await client.removeMessage(current.id, message.id);
    current.messages = withoutMessage(current.messages, message.id);
    for (const column of chat.columns)
      if (column.leafId === message.id) column.leafId = newestLeaf(current.messages, message.parent_id);
    changed();
    onChange();
  }

  /** One column, or two of which the second has `model`. */
  function setColumns(model) {
    const [first] = chat.columns;
    chat.columns = model ? [first, { leafId: chat.columns[1]?.leafId ?? first.leafId, model }] : [first];
    onChange();
  }

  function close() {
    isClosed = true;
    clearTimeout(pollTimer);
    leave();
    tabs.close();
  }

  return chat;
}
