/** components/forms/lists.js. */

import { parseModelNames, parseTags } from '/web/components/forms/lists.js';
import { equal, test } from './runner.js';

test('tags are separated by spaces and by the commas of English and Japanese', () => {
  equal(parseTags(' gpu、attic，eu-1, gpu\tlab '), ['gpu', 'attic', 'eu-1', 'lab']);
  equal(parseTags(' 、 '), []);
});

test('names of models keep their spaces', () => {
  equal(parseModelNames('Qwen 3 8B、 gpt-*，Qwen 3 8B,,a/b'), ['Qwen 3 8B', 'gpt-*', 'a/b']);
  equal(parseModelNames(''), []);
});
