/** Playground: talk to a model that is here, see how quick it is, and take the request home as code. */

import { html } from '../../lib/html.js';
import { f, t } from '../../core/i18n.js';
import { address } from '../../core/router.js';
import { recall, remember } from '../../core/preferences.js';
import { progressBar } from '../../components/progress.js';
import { alertBox, emptyState, explain, note, skeletons } from '../../components/feedback.js';
import { icon } from '../../components/icons.js';
import { loadMarkdown } from '../../components/markdown.js';
import { makeAnswers } from './chat-client.js';
import { makeComposer } from './composer.js';
import { makeConversations, newConversation } from './conversation-store.js';
import { messageList } from './message-list.js';
import { panel } from './parameters.js';
import { askForTitle, askToDelete, shelf } from './conversation-list.js';

export const title = () => t('nav.playground');

const NARROW = '(max-width: 75rem)'; // as in styles/playground.css
const NEAR_END_PX = 80;
const SAVE_EVERY_MS = 1000; // while an answer grows

export function open(app, route) {
  const owner = app.store.state.me.user.id;
  const conversations = makeConversations(owner);
  const begun = () => conversations.all().filter(({ messages }) => messages.length);
  let known = begun();
  let current = conversations.get(recall('open_conversation')) ?? newConversation();
  let draft = { text: recall(`draft.${owner}`, ''), images: [] };
  let wanted = route.query.model ?? null;
  let editing = null; // index of the question that is being rewritten
  let aside = null; // the draft that waits meanwhile
  const typed = new Map(); // parameters that are no numbers yet
  // Where there is little room, both are drawers.
  let shown = { panel: recall('panel', false) && !matchMedia(NARROW).matches, shelf: false };
  let unsaved = false;
  let savedAt = 0;
  let said = ''; // for screen readers: an answer is there
  let log = null;
  let atEnd = true;
  let top = 0; // where the log was scrolled to

  loadMarkdown().then(app.touch, app.touch); // without it answers stand there as plain text

  const answers = makeAnswers(app, (conversation, { ended }) => {
    if (ended || Date.now() - savedAt > SAVE_EVERY_MS) save(conversation);
    if (ended) said = t('playground.finished');
    app.touch();
  });

  const composer = makeComposer({
    changed() {
      if (editing === null) remember(`draft.${owner}`, draft.text);
      app.touch();
    },
    send,
    stop: answers.stop,
    leaveEditing,
  });

  function hideDrawers() {
    shown = { panel: false, shelf: false };
    app.touch();
  }

  function leaveEditing() {
    if (editing === null) return;
    editing = null;
    draft = aside;
    app.touch();
  }

  // --- conversations ---

  function save(conversation) {
    savedAt = Date.now();
    unsaved = !conversations.save(conversation);
    remember('open_conversation', current.id);
    known = begun();
    app.touch();
  }

  function show(conversation) {
    answers.stop();
    leaveEditing();
    typed.clear();
    if (!current.messages.length) conversations.remove(current.id); // it was kept for its parameters
    current = conversation;
    atEnd = true;
    shown.shelf = false;
    remember('open_conversation', conversation.id);
    app.touch();
    composer.focus();
  }

  /** Another tab has changed something; what is being written here stays as it is. */
  function elsewhere({ key }) {
    if (!conversations.concerns(key ?? null)) return;
    known = begun();
    if (!answers.running) current = conversations.get(current.id) ?? (current.messages.length ? newConversation() : current);
    app.touch();
  }

  const listening = new AbortController();
  const on = (target, type, listener) => target.addEventListener(type, listener, { signal: listening.signal });
  on(window, 'storage', elsewhere);
  on(window, 'pagehide', () => answers.running && save(answers.running));
  on(document, 'keydown', (event) => {
    if (event.key !== 'Escape' || event.isComposing || document.querySelector('dialog[open]')) return;
    if (answers.running) answers.stop();
    else if (editing !== null) leaveEditing();
    else if (matchMedia(NARROW).matches) hideDrawers();
  });

  const act = {
    begin: () => show(newConversation(Date.now(), settingsOf(current))),
    open: (id) => show(conversations.get(id) ?? newConversation()),
    regenerate() {
      const model = chosen(app.store.state, wanted);
      if (!model) return;
      if (current.messages.at(-1)?.role === 'assistant') current.messages.pop();
      atEnd = true;
      answers.ask(current, model.model.id);
    },
    edit(index) {
      aside = editing === null ? draft : aside;
      editing = index;
      const { text, images = [] } = current.messages[index];
      draft = { text, images: [...images] };
      app.touch();
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
        answers.stop();
        conversations.remove(id);
      });
      if (done) {
        known = begun();
        show(newConversation(Date.now(), settingsOf(current)));
      }
    },
  };

  function send() {
    const model = chosen(app.store.state, wanted);
    if (!model || model.status !== 'Ready' || answers.running) return;
    const { text, images } = draft;
    if (editing !== null) {
      current.messages.splice(editing);
      leaveEditing();
    } else {
      draft = { text: '', images: [] };
      remember(`draft.${owner}`, null);
    }
    current.messages.push({ role: 'user', text: text.trim(), ...(images.length ? { images } : {}) });
    current.updated = Date.now();
    remember('model', model.model.id);
    said = '';
    atEnd = true;
    save(current);
    answers.ask(current, model.model.id);
  }

  // --- what is seen ---

  function keepAtEnd() {
    if (log?.isConnected && atEnd) log.scrollTop = log.scrollHeight;
  }

  // Code is coloured, images are decoded and windows are made smaller without anything being drawn here.
  const grown = new ResizeObserver(keepAtEnd);

  const scrolled = () => {
    const [before, up] = [atEnd, log.scrollTop < top - 1];
    top = log.scrollTop;
    // Whoever turns the wheel up even a little means it.
    atEnd = log.scrollHeight - log.scrollTop - log.clientHeight <= (up ? 1 : NEAR_END_PX);
    if (before !== atEnd) app.touch();
  };

  function conversationView(state, model) {
    const writing = answers.running === current;
    const can = model?.status === 'Ready';
    const { over, drop } = composer.drops(draft, sees(model));
    return html`
      <section class="talk" aria-label=${t('playground.chat')} @dragover=${over} @drop=${drop}>
        <div
          class="log"
          role="log"
          aria-live="off"
          aria-label=${t('playground.conversation')}
          aria-busy=${String(writing)}
          tabindex="0"
          ref=${(element) => {
            log = element;
            grown.observe(log);
            grown.observe(log.firstElementChild);
          }}
          @scroll=${scrolled}
        >
          <div class="log-content">
          ${current.messages.length
            ? messageList({ messages: current.messages, writing, loading: writing ? loadingOf(model) : null, can, act })
            : can
              ? beginning(model, (text) => {
                  Object.assign(draft, { text });
                  remember(`draft.${owner}`, text);
                  composer.focus();
                  app.touch();
                })
              : null}
          </div>
        </div>
        ${atEnd
          ? null
          : html`<button type="button" class="button small to-end" @click=${() => {
              atEnd = true;
              keepAtEnd();
              app.touch();
            }}>${icon('down')}${t('playground.to_end')}</button>`}
        <p class="sr-only" role="status">${said}</p>
        ${unsaved ? note(t('playground.unsaved')) : null}
        ${composer.view({ draft, sees: sees(model), can, writing, editing: editing !== null })}
      </section>`;
  }

  const head = (state, model) => html`
    <div class="page-head chat-head">
      <h1 tabindex="-1">${t('nav.playground')}</h1>
      <label class="model-choice">
        <span class="sr-only">${t('playground.model')}</span>
        <select class="control" @change=${(event) => choose(event.target.value)}>
          ${offered(state, model).map(
            (each) => html`<option value=${each.model.id} .selected=${each === model}>${each.model.name}</option>`,
          )}
        </select>
      </label>
      <div class="buttons">
        ${toggle('shelf', 'list', 'playground.conversations')}
        ${toggle('panel', 'sliders', 'playground.settings')}
      </div>
    </div>`;

  const toggle = (name, iconName, key) => html`
    <button
      type="button"
      class="button quiet small toggle-${name}"
      aria-label=${t(key)}
      aria-expanded=${String(Boolean(shown[name]))}
      @click=${() => {
        shown = { ...shown, [name]: !shown[name] };
        if (!matchMedia(NARROW).matches) remember('panel', shown.panel);
        app.touch();
      }}
    >
      ${icon(iconName)}<span aria-hidden="true">${t(key)}</span>
    </button>`;

  function choose(id) {
    wanted = id;
    remember('model', id);
    app.go(address('/playground', { model: id }), { replace: true });
    app.touch();
  }

  return {
    update(next) {
      wanted = next.query.model ?? wanted;
    },
    close() {
      answers.stop();
      listening.abort();
      grown.disconnect();
    },
    view(state) {
      if (!state.models) {
        return html`<div class="page"><div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
          ${state.failed ? alertBox(explain(state.failed)) : skeletons(1)}</div>`;
      }
      const model = chosen(state, wanted);
      if (!model && !current.messages.length && !known.length) return nothingToTalkTo();
      return html`
        <div class="page chat">
          ${head(state, model)} ${stateOf(model)}
          <div class="chat-body ${shown.panel ? 'with-panel' : ''} ${shown.shelf ? 'with-shelf' : ''}">
            ${shelf({ conversations: known, current, act })} ${conversationView(state, model)}
            ${shown.panel ? panel({ conversation: current, model: model?.model.id, draft, typed, changed: settingsChanged }) : null}
          </div>
        </div>`;
    },
  };

  function settingsChanged() {
    save(current);
    app.touch();
  }
}

const IDEAS = ['explain', 'write', 'code'];

/** `choose(text)`: one of the ideas, to be changed or sent as it is. */
const beginning = ({ model }, choose) => html`
  <div class="log-empty">
    <h2>${t('playground.begin', { name: model.name })}</h2>
    <p>${t('playground.begin.text')}</p>
    <div class="ideas">
      ${IDEAS.map((name) => {
        const text = t(`playground.idea.${name}`);
        return html`<button type="button" class="idea" @click=${() => choose(text)}>${text}</button>`;
      })}
    </div>
  </div>`;

const nothingToTalkTo = () => html`
  <div class="page">
    <div class="page-head"><h1 tabindex="-1">${t('nav.playground')}</h1></div>
    ${emptyState(
      'playground',
      t('playground.empty.title'),
      t('playground.empty.text'),
      html`<a class="button primary" href="/models">${t('playground.empty.action')}</a>`,
    )}
  </div>`;

/** What is said above the conversation where the model cannot answer yet. */
function stateOf(model) {
  if (!model) return note(t('playground.no_model'), html`<a class="button small" href="/models">${t('playground.empty.action')}</a>`);
  if (model.status === 'Ready') return null;
  if (model.status !== 'Downloading') return note(t('playground.not_ready', { name: model.model.name, status: t(`status.${model.status}`) }));
  const share = model.download_progress ?? 0;
  return html`
    <div class="note coming">
      <p>${t('playground.coming', { name: model.model.name, percent: f.percent(share) })}</p>
      ${progressBar(t('model.progress', { name: model.model.name }), share)}
    </div>`;
}

const talks = ({ model }) => model.capabilities.includes('TextGeneration');

const sees = (item) => Boolean(item?.model.capabilities.includes('ImageUnderstanding'));

const readyOnes = (state) => [...state.models.values()].filter((item) => item.status === 'Ready' && talks(item));

/** The model to ask: the one that was asked for, else the last one that was used, else the first that is Ready. */
function chosen(state, wanted) {
  const asked = state.models.get(wanted);
  if (asked && talks(asked) && asked.status !== 'Available') return asked;
  const ready = readyOnes(state);
  const last = recall('model');
  return ready.find(({ model }) => model.id === last) ?? ready[0] ?? null;
}

const offered = (state, model) => {
  const ready = readyOnes(state);
  return !model || ready.includes(model) ? ready : [model, ...ready];
};

/** How far the loading of a model's engine is: {share 0–1 or null}; null where one is loaded, or nothing is told of it. */
function loadingOf(item) {
  const engines = (item?.replicas ?? []).map(({ engine }) => engine).filter(Boolean);
  if (engines.some(({ state }) => state === 'ready' || state === 'busy')) return null;
  const starting = engines.find(({ state }) => state === 'starting');
  return starting ? { share: starting.progress ?? null } : null;
}

const settingsOf = ({ system, parameters, stop }) => ({ system, parameters: { ...parameters }, stop });
