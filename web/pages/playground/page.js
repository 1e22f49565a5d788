/** Playground page: chat with one model or two, measure them, and try embedding and reranking models. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { readPreference, savePreference } from '../../core/preferences.js';
import { alertBox, errorMessage, note, skeletons } from '../../components/feedback.js';
import { loadMarkdown } from '../../components/markdown.js';
import { createChat } from './chat.js';
import { chatHead, modelSelect } from './chat-head.js';
import { chatIntro, modelNotice, noModelPage } from './chat-intro.js';
import { createComposer } from './composer/composer.js';
import { contextMeter } from './composer/context-meter.js';
import { contextTokens } from './context.js';
import { listActions } from './conversations/actions.js';
import { askToDeleteMessage } from './conversations/dialogs.js';
import { conversationList } from './conversations/list.js';
import { versionsOf } from './conversations/message-tree.js';
import { createLog } from './messages/log-view.js';
import { messageList } from './messages/message-view.js';
import {
  createContextLengths,
  isChatModel,
  kindOf,
  loadingOf,
  selectableModels,
  selectModel,
  supportsImages,
} from './model-choice.js';
import { createEndpointModels } from './endpoint-models.js';
import { parameterPanel } from './settings/parameters.js';
import { defaultSettings } from './settings/presets.js';
import { handleShortcut, showShortcuts } from './shortcuts.js';
import { createEmbeddingTool } from './tools/embedding.js';
import { createRerankTool } from './tools/rerank.js';

export const title = () => t('nav.playground');

// Same as in styles/playground.css.
const NARROW = '(max-width: 75rem)';
// A key press renders nothing; parts that depend on the draft follow when the user pauses.
const TYPING_PAUSE_MS = 150;

export function open(app, route) {
  let requestedModel = null;
  let isNewWanted = Boolean(route.query.model);
  requestModel(route.query.model);
  // Question that the draft will replace.
  let edited = null;
  // Draft to restore after editing.
  let stashedDraft = null;
  // Parameters whose input is not a valid number.
  const invalidInputs = new Map();
  // On narrow screens both are drawers.
  let drawers = {
    parameters: readPreference('panel', false) && !matchMedia(NARROW).matches,
    conversations: false,
  };
  // For screen readers: how the answer ended.
  let announcement = '';
  let wasConnected = true;
  let typingTimer = null;
  // Whether the composer gets the focus when it is there.
  let isFocusWanted = false;
  // Whether the open conversation begins with the preset of its model once that is known.
  let areDefaultsWanted = isNewWanted;
  let isStarted = false;
  const contextLengths = createContextLengths(app);
  const endpointModels = createEndpointModels(app);
  const menu = { id: null };
  const pulling = { error: null };

  const chat = createChat(app, {
    onChange(message, change) {
      if (message && change.ended) announcement = endAnnouncement(message);
      app.requestRender();
    },
    onError: (error) => app.showToast({ kind: 'error', text: errorMessage(error) }),
  });
  let draft = emptyDraft(readPreference(`draft.${chat.owner}`, ''));
  const logs = [createLog(app.requestRender), createLog(app.requestRender)];
  const tools = { embedding: createEmbeddingTool(app), rerank: createRerankTool(app) };

  // Without it answers are shown as plain text.
  loadMarkdown().then(app.requestRender, app.requestRender);
  chat.start({ isNew: isNewWanted }).then(() => {
    if (listeners.signal.aborted) return;
    isStarted = true;
    if (areDefaultsWanted) applyDefaults();
    isFocusWanted = !matchMedia('(pointer: coarse)').matches;
    focusComposer();
  });

  /** Once the composer is there: the conversations may be loaded before the models, or after them. */
  function focusComposer() {
    if (!isFocusWanted) return;
    isFocusWanted = document.activeElement?.matches('body, h1, main') && !composer.focus();
  }

  const composer = createComposer({
    onInput() {
      clearTimeout(typingTimer);
      typingTimer = setTimeout(saveDraft, TYPING_PAUSE_MS);
    },
    onChange: app.requestRender,
    send,
    stop: chat.stop,
    cancelEditing,
    editLast() {
      const last = chat.messagesOf(chat.columns[0]).findLast(({ role }) => role === 'user');
      if (last) edit(last);
      return Boolean(last);
    },
  });

  function saveDraft() {
    clearTimeout(typingTimer);
    if (!edited) savePreference(`draft.${chat.owner}`, draft.text || null);
    app.requestRender();
  }

  // --- models -------------------------------------------------------------------------------------

  const allState = () => endpointModels.withAll(app.store.state);
  const firstModel = () => selectModel(allState(), requestedModel);
  const modelOf = (column, at) => (at ? (allState().models.get(column.model) ?? null) : firstModel());

  /** Takes the model out of the URL, so that a reload returns to the open conversation. */
  function requestModel(id) {
    if (!id) return;
    requestedModel = id;
    savePreference('model', id);
    queueMicrotask(() => app.go('/playground', { replace: true }));
  }

  function chooseModel(id) {
    requestedModel = id;
    savePreference('model', id);
    applyDefaults();
    app.requestRender();
  }

  /**
   * A new conversation begins with the preset of its model. At first neither may be there yet: then it gets
   * the preset when they are.
   */
  function applyDefaults() {
    areDefaultsWanted = !isStarted || !endpointModels.areAllKnown();
    if (areDefaultsWanted || chat.current.isStored) return;
    const settings = defaultSettings(chat.presets, firstModel()?.model.id);
    if (!settings) return;
    chat.current.settings = structuredClone(settings);
    chat.settingsChanged();
    app.requestRender();
  }

  function toggleComparison() {
    if (chat.columns.length > 1) return chat.setColumns(null);
    const first = firstModel();
    const others = [...allState().models.values()].filter(
      (item) => isChatModel(item) && item.status === 'Ready' && item !== first,
    );
    const known = others.find(({ model }) => model.id === readPreference('compare_model'));
    chat.setColumns((known ?? others[0] ?? first)?.model.id ?? null);
  }

  // --- actions ------------------------------------------------------------------------------------

  function hideDrawers() {
    drawers = { parameters: false, conversations: false };
    app.requestRender();
  }

  function edit(message) {
    stashedDraft = edited ? stashedDraft : draft;
    edited = message;
    draft = { text: message.text, images: [...message.images], files: [...message.files] };
    app.requestRender();
    composer.focus();
  }

  function cancelEditing() {
    if (!edited) return;
    edited = null;
    draft = stashedDraft;
    app.requestRender();
  }

  function reset() {
    cancelEditing();
    invalidInputs.clear();
    for (const log of logs) log.reset();
    drawers.conversations = false;
    menu.id = null;
  }

  const actions = {
    ...listActions(app, chat, menu),
    create() {
      reset();
      chat.create();
      applyDefaults();
      composer.focus();
    },
    open(id) {
      if (id !== chat.current.id) {
        reset();
        areDefaultsWanted = false;
        chat.open(id);
      } else hideDrawers();
      composer.focus();
    },
  };

  const messageActions = (column, at) => {
    const withModel = (perform) => (message) => {
      const model = modelOf(column, at);
      if (model?.status !== 'Ready') return;
      announcement = '';
      logs[at].scrollToEnd();
      perform(column, message, model.model.id);
    };
    return {
      regenerate: withModel(chat.regenerate),
      regenerateShorter: withModel(chat.regenerateShorter),
      continueAnswer: withModel(chat.continueAnswer),
      showVersion: (message) => chat.showVersion(column, message),
      edit,
      remove: (message) => askToDeleteMessage(() => chat.removeMessage(message)),
    };
  };

  function send() {
    const models = chat.columns.map(modelOf);
    if (models.some((model) => model?.status !== 'Ready') || chat.isBusy || chat.isLoading) return;
    if (invalidInputs.size) return focusInvalidInput();
    const [sent, replaced] = [draft, edited];
    if (edited) cancelEditing();
    else {
      draft = emptyDraft();
      saveDraft();
    }
    savePreference('model', models[0].model.id);
    announcement = '';
    for (const log of logs) log.scrollToEnd();
    chat.send(
      sent,
      models.map(({ model }) => model.id),
      replaced,
    );
  }

  /** A parameter that is not a number would be ignored without a word. */
  function focusInvalidInput() {
    drawers = { ...drawers, parameters: true };
    announcement = t('playground.invalid_parameter');
    app.requestRender();
    requestAnimationFrame(() => document.querySelector('.parameters [aria-invalid="true"]')?.focus());
  }

  const listeners = new AbortController();
  document.addEventListener(
    'keydown',
    (event) =>
      handleShortcut(event, {
        search() {
          drawers.conversations = matchMedia(NARROW).matches || drawers.conversations;
          app.requestRender();
          requestAnimationFrame(() => document.querySelector('.conversation-search input')?.focus());
        },
        create: actions.create,
        help: showShortcuts,
        escape() {
          if (chat.isBusy) chat.stop();
          else if (edited) cancelEditing();
          else if (menu.id) actions.toggleMenu(menu.id);
          else if (matchMedia(NARROW).matches) hideDrawers();
        },
      }),
    { signal: listeners.signal },
  );
  addEventListener('pagehide', saveDraft, { signal: listeners.signal });

  // --- views --------------------------------------------------------------------------------------

  function columnView(column, at) {
    const model = modelOf(column, at);
    const can = model?.status === 'Ready';
    const messages = chat.messagesOf(column);
    const isEmpty = !messages.length && !chat.isLoading;
    const compares = chat.columns.length > 1;
    return html`
      <div class="column">
        ${compares ? columnHead(column, at, model, messages) : null}
        ${logs[at].view({
          messages,
          busy: chat.isRunning(column),
          label:
            compares && model
              ? t('playground.conversation_with', { name: model.model.name })
              : t('playground.conversation'),
          content: (shown) =>
            isEmpty
              ? can
                ? chatIntro(model, (text) => {
                    draft.text = text;
                    saveDraft();
                    composer.focus();
                  })
                : null
              : messageList(shown, {
                  versions: (message) => versionsOf(chat.current.messages, message),
                  loading: loadingOf(model),
                  can: can && !chat.isBusy,
                  withModel: new Set(messages.map((each) => each.model).filter(Boolean)).size > 1,
                  actions: messageActions(column, at),
                }),
        })}
      </div>`;
  }

  const secondModels = (model) => selectableModels(allState(), model).filter(({ kind }) => kind === 'chat');

  function columnHead(column, at, model, messages) {
    const rate = messages.at(-1)?.stats?.tokens_per_second;
    return html`
      <div class="column-head">
        ${
          at
            ? modelSelect(secondModels(model), model, t('playground.second_model'), (id) => {
                savePreference('compare_model', id);
                chat.setColumns(id);
              })
            : html`<strong>${model?.model.name ?? ''}</strong>`
        }
        ${
          rate
            ? html`<span class="column-rate">${t('playground.speed', { rate: f.number(rate, 1) })}</span>`
            : null
        }
      </div>`;
  }

  function chatView(model) {
    const can = model?.status === 'Ready' && !chat.isLoading;
    const { over, drop } = composer.dropHandlers(draft, supportsImages(model));
    const messages = chat.messagesOf(chat.columns[0]);
    return html`
      <section class="chat-panel" aria-label=${t('playground.chat')} @dragover=${over} @drop=${drop}>
        <div class="columns ${chat.columns.length > 1 ? 'comparing' : ''}">
          ${chat.columns.map(columnView)}
        </div>
        <p class="sr-only" role="status">${announcement}</p>
        ${chat.isUnsaved ? note(t('playground.unsaved'), null, 'warning') : null}
        ${chat.current.dropsOldest ? note(t('playground.dropping')) : null}
        ${composer.view({
          draft,
          supportsImages: supportsImages(model),
          can,
          writing: chat.isBusy,
          editing: Boolean(edited),
          name: model?.model.name ?? '',
          meter: contextMeter(
            contextTokens(chat.current.settings, messages, draft),
            contextLengths.of(model),
          ),
        })}
      </section>`;
  }

  function toggle(name) {
    drawers = { ...drawers, [name]: !drawers[name] };
    if (!matchMedia(NARROW).matches) savePreference('panel', drawers.parameters);
    app.requestRender();
  }

  function body(model) {
    const kind = kindOf(model);
    if (kind === 'embedding' || kind === 'rerank')
      return html`
        <div class="chat-body tool-body">${model.status === 'Ready' ? tools[kind].view(model) : null}</div>`;
    return html`
      <div class="chat-body ${drawers.parameters ? 'with-parameters' : ''} ${
        drawers.conversations ? 'with-conversations' : ''
      }">
        ${conversationList({ chat, menuOf: menu.id, actions })} ${chatView(model)}
        ${
          drawers.parameters
            ? parameterPanel({
                chat,
                model,
                messages: chat.messagesOf(chat.columns[0]),
                draft,
                invalidInputs,
                onChange() {
                  chat.settingsChanged();
                  app.requestRender();
                },
                onError: (error) => app.showToast({ kind: 'error', text: errorMessage(error) }),
                close: () => toggle('parameters'),
              })
            : null
        }
      </div>`;
  }

  function followState({ connection }) {
    if (areDefaultsWanted) applyDefaults();
    // Changes by other devices while this page was offline.
    const isConnected = connection.status === 'connected';
    if (isConnected && !wasConnected) chat.refresh();
    wasConnected = isConnected;
  }
  const unsubscribe = app.store.subscribe(followState);

  return {
    update(next) {
      if (!next.query.model) return;
      requestModel(next.query.model);
      if (chat.current.isStored) actions.create();
      else applyDefaults();
    },
    close() {
      saveDraft();
      listeners.abort();
      unsubscribe();
      endpointModels.close();
      chat.close();
      for (const log of logs) log.close();
    },
    view(ownState) {
      const state = endpointModels.withAll(ownState);
      // After this render.
      if (isFocusWanted) setTimeout(focusComposer);
      if (!state.models) {
        return html`
          <div class="page">
            <div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
            ${state.loadError ? alertBox(errorMessage(state.loadError)) : skeletons(1)}
          </div>`;
      }
      const model = selectModel(state, requestedModel);
      if (!model && !chat.current.messages.length && !chat.summaries?.length) {
        return chat.summaries || chat.loadError ? noModelPage(app, state, pulling) : skeletons(1);
      }
      return html`
        <div class="page chat">
          ${chatHead({
            state,
            model,
            kind: kindOf(model),
            drawers,
            compares: chat.columns.length > 1,
            chooseModel,
            toggle,
            toggleComparison,
          })}
          ${modelNotice(model)} ${body(model)}
        </div>`;
    },
  };
}

const emptyDraft = (text = '') => ({ text, images: [], files: [] });

/** Announcement of a screen reader when an answer has ended. */
function endAnnouncement({ ended, error }) {
  if (ended === 'stopped') return t('playground.ended.stopped');
  if (ended === 'length') return t('playground.ended.length');
  if (ended !== 'interrupted' && ended !== null) return t('playground.finished');
  return t('playground.failed', { reason: error ? errorMessage(error) : '' }).trim();
}
