/** Playground page: chat with a model, measure its performance, and copy the request as code. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { readPreference, savePreference } from '../../core/preferences.js';
import { alertBox, errorMessage, note, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { loadMarkdown } from '../../components/markdown.js';
import { createChatClient } from './chat-client.js';
import { chatIntro, modelNotice, noModelPage } from './chat-intro.js';
import { createComposer } from './composer.js';
import { createConversationStore, newConversation } from './conversation-store.js';
import { messageList } from './message-list.js';
import { loadingOf, selectableModels, selectModel, supportsImages } from './model-choice.js';
import { parameterPanel } from './parameters.js';
import { askForTitle, askToDelete, conversationList } from './conversation-list.js';

export const title = () => t('nav.playground');

// Same as in styles/playground.css.
const NARROW = '(max-width: 75rem)';
const NEAR_END_PX = 80;
// While a response is being generated.
const SAVE_EVERY_MS = 1000;

export function open(app, route) {
  const owner = app.store.state.me.user.id;
  const conversationStore = createConversationStore(owner);
  const savedConversations = () => conversationStore.all().filter(({ messages }) => messages.length);
  let saved = savedConversations();
  // "Try" on a model starts a conversation with it.
  let current =
    (route.query.model ? null : conversationStore.get(readPreference('open_conversation'))) ??
    newConversation();
  let draft = { text: readPreference(`draft.${owner}`, ''), images: [] };
  let requestedModel = null;
  requestModel(route.query.model);
  // Index of the question being edited.
  let editedIndex = null;
  // Draft to restore after editing.
  let stashedDraft = null;
  // Parameters whose input is not a valid number.
  const invalidInputs = new Map();
  // On narrow screens both are drawers.
  let drawers = {
    parameters: readPreference('panel', false) && !matchMedia(NARROW).matches,
    conversations: false,
  };
  let unsaved = false;
  let savedAt = 0;
  // For screen readers: the response is complete.
  let announcement = '';
  let logElement = null;
  let isAtEnd = true;
  // Last scroll position of the log.
  let lastScrollTop = 0;

  // Without it answers are shown as plain text.
  loadMarkdown().then(app.requestRender, app.requestRender);

  const chatClient = createChatClient(app, (conversation, { ended }) => {
    if (ended || Date.now() - savedAt > SAVE_EVERY_MS) save(conversation);
    if (ended) announcement = endAnnouncement(conversation.messages.at(-1));
    app.requestRender();
  });

  const composer = createComposer({
    onChange() {
      if (editedIndex === null) savePreference(`draft.${owner}`, draft.text);
      app.requestRender();
    },
    send,
    stop: chatClient.stop,
    cancelEditing,
  });

  function hideDrawers() {
    drawers = { parameters: false, conversations: false };
    app.requestRender();
  }

  function cancelEditing() {
    if (editedIndex === null) return;
    editedIndex = null;
    draft = stashedDraft;
    app.requestRender();
  }

  // --- conversations ---

  function save(conversation) {
    savedAt = Date.now();
    unsaved = !conversationStore.save(conversation);
    savePreference('open_conversation', current.id);
    saved = savedConversations();
    app.requestRender();
  }

  function show(conversation) {
    chatClient.stop();
    cancelEditing();
    invalidInputs.clear();
    // It was only stored for its parameters.
    if (!current.messages.length) conversationStore.remove(current.id);
    current = conversation;
    isAtEnd = true;
    drawers.conversations = false;
    savePreference('open_conversation', conversation.id);
    app.requestRender();
    composer.focus();
  }

  /** Another tab has changed a conversation. A response being generated in this tab takes precedence. */
  function onStorage({ key }) {
    if (!conversationStore.owns(key ?? null)) return;
    saved = savedConversations();
    if (!chatClient.running)
      current = conversationStore.get(current.id) ?? (current.messages.length ? newConversation() : current);
    app.requestRender();
  }

  const listeners = new AbortController();
  const on = (target, type, listener) =>
    target.addEventListener(type, listener, { signal: listeners.signal });
  on(window, 'storage', onStorage);
  on(window, 'pagehide', () => chatClient.running && save(chatClient.running));
  on(document, 'keydown', (event) => {
    if (event.key !== 'Escape' || event.isComposing || document.querySelector('dialog[open]')) return;
    if (chatClient.running) chatClient.stop();
    else if (editedIndex !== null) cancelEditing();
    else if (matchMedia(NARROW).matches) hideDrawers();
  });

  const actions = {
    create: () => show(newConversation(Date.now(), copySettings(current))),
    open: (id) => show(conversationStore.get(id) ?? newConversation()),
    regenerate() {
      const model = selectModel(app.store.state, requestedModel);
      if (!model) return;
      if (current.messages.at(-1)?.role === 'assistant') current.messages.pop();
      isAtEnd = true;
      chatClient.send(current, model.model.id);
    },
    edit(index) {
      stashedDraft = editedIndex === null ? draft : stashedDraft;
      editedIndex = index;
      const { text, images = [] } = current.messages[index];
      draft = { text, images: [...images] };
      app.requestRender();
      composer.focus();
    },
    async rename() {
      const name = await askForTitle(current);
      if (name === null) return;
      current.title = name;
      save(current);
    },
    async remove() {
      const done = await askToDelete(current, (id) => {
        chatClient.stop();
        conversationStore.remove(id);
      });
      if (done) {
        saved = savedConversations();
        show(newConversation(Date.now(), copySettings(current)));
      }
    },
  };

  function send() {
    const model = selectModel(app.store.state, requestedModel);
    if (!model || model.status !== 'Ready' || chatClient.running) return;
    if (invalidInputs.size) return focusInvalidInput();
    const { text, images } = draft;
    if (editedIndex !== null) {
      current.messages.splice(editedIndex);
      cancelEditing();
    } else {
      draft = { text: '', images: [] };
      savePreference(`draft.${owner}`, null);
    }
    current.messages.push({ role: 'user', text: text.trim(), ...(images.length ? { images } : {}) });
    current.updated = Date.now();
    savePreference('model', model.model.id);
    announcement = '';
    isAtEnd = true;
    save(current);
    chatClient.send(current, model.model.id);
  }

  /** A parameter that is not a number would be ignored without a word. */
  function focusInvalidInput() {
    drawers = { ...drawers, parameters: true };
    announcement = t('playground.invalid_parameter');
    app.requestRender();
    requestAnimationFrame(() => document.querySelector('.parameters [aria-invalid="true"]')?.focus());
  }

  // --- what is seen ---

  function keepAtEnd() {
    if (logElement?.isConnected && isAtEnd) logElement.scrollTop = logElement.scrollHeight;
  }

  // Highlighting, image decoding and resizing change the height without a render.
  const sizeObserver = new ResizeObserver(keepAtEnd);

  const onScroll = () => {
    const [before, up] = [isAtEnd, logElement.scrollTop < lastScrollTop - 1];
    lastScrollTop = logElement.scrollTop;
    // Scrolling up even slightly is intentional.
    isAtEnd =
      logElement.scrollHeight - logElement.scrollTop - logElement.clientHeight <= (up ? 1 : NEAR_END_PX);
    if (before !== isAtEnd) app.requestRender();
  };

  function conversationView(state, model) {
    const writing = chatClient.running === current;
    const can = model?.status === 'Ready';
    const { over, drop } = composer.dropHandlers(draft, supportsImages(model));
    return html`
      <section class="chat-panel" aria-label=${t('playground.chat')} @dragover=${over} @drop=${drop}>
        <div
          class="log"
          role="log"
          aria-live="off"
          aria-label=${t('playground.conversation')}
          aria-busy=${String(writing)}
          tabindex="0"
          ref=${(element) => {
            logElement = element;
            sizeObserver.observe(logElement);
            sizeObserver.observe(logElement.firstElementChild);
          }}
          @scroll=${onScroll}
        >
          <div class="log-content">
          ${
            current.messages.length
              ? messageList({
                  messages: current.messages,
                  writing,
                  loading: writing ? loadingOf(model) : null,
                  can,
                  actions,
                })
              : can
                ? chatIntro(model, (text) => {
                    Object.assign(draft, { text });
                    savePreference(`draft.${owner}`, text);
                    composer.focus();
                    app.requestRender();
                  })
                : null
          }
          </div>
        </div>
        ${
          isAtEnd
            ? null
            : html`<button type="button" class="button small scroll-to-end" @click=${() => {
                isAtEnd = true;
                keepAtEnd();
                app.requestRender();
              }}>${icon('down')}${t('playground.to_end')}</button>`
        }
        <p class="sr-only" role="status">${announcement}</p>
        ${unsaved ? note(t('playground.unsaved')) : null}
        ${composer.view({
          draft,
          supportsImages: supportsImages(model),
          can,
          writing,
          editing: editedIndex !== null,
        })}
      </section>`;
  }

  const head = (state, model) => html`
    <div class="page-head chat-head">
      <h1 tabindex="-1">${t('nav.playground')}</h1>
      <label class="model-choice">
        <span class="sr-only">${t('playground.model')}</span>
        <select class="control" @change=${(event) => chooseModel(event.target.value)}>
          ${selectableModels(state, model).map(
            (each) =>
              html`<option value=${each.model.id} .selected=${each === model}>${each.model.name}</option>`,
          )}
        </select>
      </label>
      <div class="buttons">
        ${toggle('conversations', 'list', 'playground.conversations')}
        ${toggle('parameters', 'sliders', 'playground.settings')}
      </div>
    </div>`;

  const toggle = (name, iconName, key) => html`
    <button
      type="button"
      class="button quiet small toggle-${name}"
      aria-label=${t(key)}
      aria-expanded=${String(Boolean(drawers[name]))}
      @click=${() => {
        drawers = { ...drawers, [name]: !drawers[name] };
        if (!matchMedia(NARROW).matches) savePreference('panel', drawers.parameters);
        app.requestRender();
      }}
    >
      ${icon(iconName)}<span aria-hidden="true">${t(key)}</span>
    </button>`;

  function chooseModel(id) {
    requestedModel = id;
    savePreference('model', id);
    app.requestRender();
  }

  /** Takes the model out of the URL, so that a reload returns to the open conversation. */
  function requestModel(id) {
    if (!id) return;
    requestedModel = id;
    savePreference('model', id);
    queueMicrotask(() => app.go('/playground', { replace: true }));
  }

  return {
    update(next) {
      if (!next.query.model) return;
      requestModel(next.query.model);
      if (current.messages.length) show(newConversation(Date.now(), copySettings(current)));
    },
    close() {
      chatClient.stop();
      listeners.abort();
      sizeObserver.disconnect();
    },
    view(state) {
      if (!state.models) {
        return html`
          <div class="page">
            <div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
            ${state.loadError ? alertBox(errorMessage(state.loadError)) : skeletons(1)}
          </div>`;
      }
      const model = selectModel(state, requestedModel);
      if (!model && !current.messages.length && !saved.length) return noModelPage();
      return html`
        <div class="page chat">
          ${head(state, model)} ${modelNotice(model)}
          <div class="chat-body ${drawers.parameters ? 'with-parameters' : ''} ${
            drawers.conversations ? 'with-conversations' : ''
          }">
            ${conversationList({ conversations: saved, current, actions })} ${conversationView(state, model)}
            ${
              drawers.parameters
                ? parameterPanel({
                    conversation: current,
                    model: model?.model.id,
                    draft,
                    invalidInputs,
                    onChange: settingsChanged,
                  })
                : null
            }
          </div>
        </div>`;
    },
  };

  function settingsChanged() {
    save(current);
    app.requestRender();
  }
}

/** What a screen reader hears when a response has ended. */
function endAnnouncement({ ended, error }) {
  if (ended === 'stopped') return t('playground.ended.stopped');
  if (ended === 'length') return t('playground.ended.length');
  if (ended === 'interrupted') return t('playground.failed', { reason: error ?? '' }).trim();
  return t('playground.finished');
}

const copySettings = ({ system, parameters, stop }) => ({ system, parameters: { ...parameters }, stop });
