/** English, a file a page. Its keys are the keys of every language. */

import access from './en/access.js';
import docs from './en/docs.js';
import endpoints from './en/endpoints.js';
import errors from './en/errors.js';
import logs from './en/logs.js';
import models from './en/models.js';
import nodes from './en/nodes.js';
import playground from './en/playground.js';
import requests from './en/requests.js';
import settings from './en/settings.js';
import shell from './en/shell.js';

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
