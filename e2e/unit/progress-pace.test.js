/** pages/models/progress-pace.js. */

import { createProgressPace, MAX_ROWS_PER_FRAME } from '/web/pages/models/progress-pace.js';
import { equal, test } from './runner.js';

const download = (at, progress) => ({ model: { id: `m${at}` }, status: 'Downloading', download_progress: progress });
const all = (progress) => Array.from({ length: 3 * MAX_ROWS_PER_FRAME }, (_, at) => download(at, progress));

test('every download gets its turn, and no frame draws more than its share', () => {
  let asked = 0;
  const pace = createProgressPace(() => (asked += 1));
  const models = new Map(all(0).map((item) => [item.model.id, item.model]));
  const items = (progress) => all(progress).map((item) => ({ ...item, model: models.get(item.model.id) }));
  const frame = (list) => {
    pace.beginFrame();
    return list.map((item) => pace.itemToDraw(item).download_progress);
  };
  equal(new Set(frame(items(0))), new Set([0]), 'what is new is drawn at once');
  const next = items(0.5);
  const counts = [1, 2, 3].map(() => frame(next).filter((progress) => progress === 0.5).length);
  equal(counts, [1, 2, 3].map((share) => share * MAX_ROWS_PER_FRAME));
  const before = asked;
  frame(next);
  equal(asked, before, 'with nothing left no further frame is asked for');
});

test('a change of anything else does not wait', () => {
  const pace = createProgressPace(() => {});
  pace.beginFrame();
  const first = all(0).map((item) => pace.itemToDraw(item));
  pace.beginFrame();
  for (const item of first) pace.itemToDraw({ ...item, download_progress: 0.1 });
  const last = first.at(-1);
  const failed = { ...last, status: 'Error' };
  equal(pace.itemToDraw(failed) === failed, true);
  const stalled = { ...first.at(-2), error: 'waiting for the network' };
  equal(pace.itemToDraw(stalled) === stalled, true);
});
