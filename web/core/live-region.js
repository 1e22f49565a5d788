/** Announcements for screen readers: start, quarters and end of a download rather than every percent. */

import { hasEndedPull, UNDER_WAY } from './toasts.js';

const quarter = (model) => Math.floor((model.download_progress ?? 0) * 4 + 1e-9);

/** Announcements for a change from one map of models to the next: [{key, values}]. */
export function announcements(before, after) {
  const messages = [];
  if (!before || !after || before === after) return messages;
  for (const [id, now] of after) {
    const was = before.get(id);
    if (!was || was === now) continue;
    const { name } = now.model;
    // Its toast is a live region as well.
    if (hasEndedPull(was, now)) continue;
    if (was.status !== now.status) {
      const cancelled = now.status === 'Available' && UNDER_WAY.has(was.status);
      messages.push({ key: `announcement.${cancelled ? 'Cancelled' : now.status}`, values: { name } });
    } else if (now.status === 'Downloading' && quarter(now) > quarter(was) && quarter(now) < 4) {
      messages.push({ key: 'announcement.progress', values: { name, percent: quarter(now) * 25 } });
    }
  }
  return messages;
}
