/** 日本語。キーは英語と同じ。 */

import access from './ja/access.js';
import docs from './ja/docs.js';
import endpoints from './ja/endpoints.js';
import errors from './ja/errors.js';
import logs from './ja/logs.js';
import models from './ja/models.js';
import nodes from './ja/nodes.js';
import playground from './ja/playground.js';
import requests from './ja/requests.js';
import settings from './ja/settings.js';
import shell from './ja/shell.js';

export default {
  ...shell,
  ...errors,
  ...models,
  ...playground,
  ...nodes,
  ...endpoints,
  ...logs,
  ...requests,
  ...access,
  ...settings,
  ...docs,
};
