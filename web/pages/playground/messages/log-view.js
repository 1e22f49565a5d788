/** Scrolling log of messages: it stays at its end while an answer grows, and shows only the last messages. */

import { html } from '../../../lib/html.js';
import { t } from '../../../core/i18n.js';
import { icon } from '../../../components/icons.js';

const NEAR_END_PX = 80;
// Further messages appear when this much is left above.
const NEAR_START_PX = 400;
const WINDOW = 40;

/** `view(content(count))`: the log; `content` is asked for the last `count` messages. */
export function createLog(requestRender) {
  let element = null;
  let isAtEnd = true;
  // Only the introduction, which is read from its beginning.
  let isEmpty = true;
  let lastScrollTop = 0;
  let count = WINDOW;

  function keepAtEnd() {
    if (element?.isConnected && isAtEnd) element.scrollTop = isEmpty ? 0 : element.scrollHeight;
  }

  // Highlighting, image decoding and resizing change the height without a render.
  const sizeObserver = new ResizeObserver(keepAtEnd);

  function onScroll() {
    const [before, up] = [isAtEnd, element.scrollTop < lastScrollTop - 1];
    lastScrollTop = element.scrollTop;
    // Scrolling up even slightly is intentional.
    const below = element.scrollHeight - element.scrollTop - element.clientHeight;
    isAtEnd = isEmpty || below <= (up ? 1 : NEAR_END_PX);
    if (element.scrollTop < NEAR_START_PX && element.dataset.more === 'true') showMore();
    else if (before !== isAtEnd) requestRender();
  }

  /** Shows earlier messages above, without moving those on the screen. */
  function showMore() {
    const fromEnd = element.scrollHeight - element.scrollTop;
    count += WINDOW;
    requestRender();
    // After the render, which is in the next frame too.
    requestAnimationFrame(() => {
      element.scrollTop = element.scrollHeight - fromEnd;
    });
  }

  const scrollToEnd = () => {
    isAtEnd = true;
    keepAtEnd();
    requestRender();
  };

  return {
    scrollToEnd,
    /** Start again at the end, for another conversation. */
    reset() {
      count = WINDOW;
      isAtEnd = true;
    },
    close: () => sizeObserver.disconnect(),
    view: ({ messages, busy, label, content }) => {
      const more = messages.length > count;
      isEmpty = !messages.length;
      return html`
        <div class="log-frame">
          <div
            class="log"
            role="log"
            aria-live="off"
            aria-label=${label}
            aria-busy=${String(busy)}
            data-more=${String(more)}
            tabindex="0"
            ref=${(created) => {
              element = created;
              sizeObserver.observe(created);
              sizeObserver.observe(created.firstElementChild);
            }}
            @scroll=${onScroll}
          >
            <div class="log-content">
              ${
                more
                  ? html`<button
                        type="button"
                        class="button quiet small log-earlier"
                        @click=${showMore}
                      >${t('playground.earlier')}</button>`
                  : null
              }
              ${content(more ? messages.slice(-count) : messages)}
            </div>
          </div>
          ${
            isAtEnd
              ? null
              : html`<button type="button" class="button small scroll-to-end" @click=${scrollToEnd}>
                  ${icon('down')}${t('playground.to_end')}
                </button>`
          }
        </div>`;
    },
  };
}
