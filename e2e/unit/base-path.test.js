/** lib/base-path.js: paths of llb and of the browser, below a path of a reverse proxy. */

import { basePathOf, serverUrl, toBrowserPath, toOwnPath } from '/web/lib/base-path.js';
import { equal, test } from './runner.js';

test('the base path is where the assets are', () => {
  const module = 'assets/0123456789ab/lib/base-path.js';
  equal(basePathOf(`http://localhost:8080/${module}`), '');
  equal(basePathOf(`https://site.example/llb/${module}`), '/llb');
  equal(basePathOf(`https://site.example/assets/x/y/${module}?q#h`), '/assets/x/y');
  equal(basePathOf('http://localhost/web/lib/base-path.js'), '');
});

test('only paths of llb get the base path', () => {
  equal(toBrowserPath('/models?q=a', '/llb'), '/llb/models?q=a');
  equal(toBrowserPath('/', '/llb'), '/llb/');
  for (const other of ['//evil.example', '/\\evil.example', 'https://a.example/', '#top', '?q=a', './a', ''])
    equal(toBrowserPath(other, '/llb'), other);
  equal(toBrowserPath('/models', ''), '/models');
});

test('a path that is not below the base path is none of llb', () => {
  equal(toOwnPath('/llb/models/local', '/llb'), '/models/local');
  equal(toOwnPath('/llb/', '/llb'), '/');
  equal(toOwnPath('/llb', '/llb'), '/');
  for (const other of ['/models', '/llbx/models', '/', '/LLB/models']) equal(toOwnPath(other, '/llb'), null);
  equal(toOwnPath('/models', ''), '/models');
  equal(serverUrl(), location.origin);
});
