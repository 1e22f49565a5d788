/** Dialog that changes an endpoint: name, preference, limits, models, prices, key. */

import { html } from '../../lib/html.js';
import { t } from '../../core/i18n.js';
import { formDialog } from '../../components/forms/dialog.js';
import { field } from '../../components/forms/field.js';
import { parseModelNames, parseTags } from '../../components/forms/lists.js';

const PRICES_EXAMPLE = '{"gpt-5": {"input": 1.25, "output": 10}}';

/** Resolves to true if the endpoint was changed. */
export const editEndpoint = (app, endpoint, path) =>
  formDialog({
    title: t('endpoints.edit.title', { name: endpoint.name }),
    action: t('endpoints.edit.save'),
    fields: () => html`
      ${field({
        name: 'name',
        label: t('endpoints.name'),
        value: endpoint.name,
        maxLength: 63,
        autofocus: true,
      })}
      ${number('priority', endpoint.priority)} ${number('weight', endpoint.weight)}
      ${number('max_concurrency', endpoint.max_concurrency)} ${number('timeout_s', endpoint.timeout_s)}
      ${field({
        name: 'tags',
        label: t('node.tags'),
        hint: t('node.tags.hint'),
        value: endpoint.tags.join(', '),
        optional: true,
      })}
      ${field({
        name: 'models',
        label: t('endpoints.filter'),
        hint: t('endpoints.filter.hint'),
        value: endpoint.model_filter?.join(', ') ?? '',
        optional: true,
      })}
      ${field({
        name: 'prices',
        label: t('endpoints.prices'),
        hint: t('endpoints.prices.hint', { example: PRICES_EXAMPLE }),
        value: textOfPrices(endpoint.prices),
        optional: true,
      })}
      ${
        endpoint.key.source === 'environment'
          ? null
          : field({
              name: 'key',
              label: t('endpoints.key.new'),
              hint: t('endpoints.key.new_hint'),
              type: 'password',
              optional: true,
            })
      }`,
    perform: (form) => app.api.patch(path, patchOf(form)),
  });

const number = (name, value) =>
  field({
    name,
    label: t(`endpoints.${name}`),
    hint: t(`endpoints.${name}.hint`),
    type: 'text',
    value: value === null ? '' : String(value),
    optional: true,
  });

/** Invalid numbers are sent as text, so that the server names the field. */
function numberOf(form, name) {
  const text = form.get(name).trim();
  if (!text) return null;
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

/** Prices as JSON, without those that are not set. */
const textOfPrices = (prices) =>
  JSON.stringify(prices, (_name, value) => (isUnset(value) ? undefined : value)) ?? '';

const isUnset = (value) => value === null || (typeof value === 'object' && !Object.keys(value).length);

/** Text that is no JSON is sent as it is, so that the server names the field. */
function pricesOf(form) {
  const text = form.get('prices').trim();
  if (!text) return {};
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function patchOf(form) {
  const models = parseModelNames(form.get('models'));
  return {
    name: form.get('name').trim(),
    priority: numberOf(form, 'priority') ?? 0,
    weight: numberOf(form, 'weight') ?? 1,
    max_concurrency: numberOf(form, 'max_concurrency'),
    timeout_s: numberOf(form, 'timeout_s'),
    tags: parseTags(form.get('tags')),
    models: models.length ? models : null,
    prices: pricesOf(form),
    ...(form.get('key') ? { key: form.get('key') } : {}),
  };
}
