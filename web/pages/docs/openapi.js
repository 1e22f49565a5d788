/** View model of an OpenAPI document. Pure. */

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const JSON_TYPE = 'application/json';

/**
 * Returns {version, about, tags: [{name, text, operations}], operations: by id, codes: [{code, status,
 * text}], commonErrors: Set of codes, find(ref)}.
 */
export function parseOpenApi(document) {
  const find = (ref) =>
    ref
      .split('/')
      .slice(1)
      .reduce((place, name) => place[name], document);
  const codes = Object.entries(find('#/components/schemas/Error')['x-llb-codes']).map(([code, each]) => ({
    code,
    ...each,
  }));
  const meaning = new Map(codes.map((each) => [each.code, each]));
  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) =>
      operation(method, path, item[method], find, meaning),
    ),
  );
  // Errors common to all operations are listed only once.
  const commonErrors = new Set(
    codes
      .map(({ code }) => code)
      .filter((code) => operations.every(({ errors }) => errors.some((each) => each.code === code))),
  );
  return {
    version: document.info.version,
    about: document.info.description,
    tags: document.tags.map(({ name, description }) => ({
      name,
      text: description,
      operations: operations.filter(({ tag }) => tag === name),
    })),
    operations: new Map(operations.map((each) => [each.id, each])),
    codes,
    commonErrors,
    find,
  };
}

function operation(method, path, source, find, meaning) {
  const entries = Object.entries(source.responses).map(([status, each]) => [
    Number(status),
    each.$ref ? find(each.$ref) : each,
    each,
  ]);
  const responses = entries.filter(([, , each]) => !each.$ref);
  const errors = entries
    .filter(([, , each]) => each.$ref)
    .flatMap(([status, { 'x-llb-codes': names }]) => names.map((code) => ({ ...meaning.get(code), status })));
  const body = source.requestBody?.content[JSON_TYPE].schema ?? null;
  return {
    id: source.operationId,
    tag: source.tags[0],
    method: responses.some(([status]) => status === 101) ? 'WS' : method.toUpperCase(),
    path,
    summary: source.summary,
    text: source.description,
    open: source.security.length === 0,
    parameters: source.parameters,
    body,
    bodySections: body
      ? objectSchemas(body, find).map(({ name }) => `${source.operationId}/body/${name}`)
      : [],
    example: body && (exampleOf(body, find) ?? null),
    responses: responses.map(([status, { description, content = {} }]) => ({
      status,
      text: description,
      contents: Object.entries(content).map(([type, { schema, 'x-llb-event': event = null }]) => ({
        type,
        schema: event ?? schema,
      })),
    })),
    errors,
    messages: source['x-llb-messages'] ?? null,
  };
}

const exampleOf = (schema, find) => (schema.$ref ? find(schema.$ref) : schema).examples?.[0];

/** Tags with the operations that contain all search words; tags without any are left out. */
export function searchOperations(tags, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = ({ id, method, path, summary, text: more, tag, parameters, errors }) => {
    const names = [...parameters.map(({ name }) => name), ...errors.map(({ code }) => code)];
    const all = [id, method, path, summary, more, tag, ...names].join(' ').toLowerCase();
    return words.every((word) => all.includes(word));
  };
  return tags
    .map((tag) => ({ ...tag, operations: tag.operations.filter(found) }))
    .filter(({ operations }) => operations.length);
}

// --- schemas -----------------------------------------------------------------------------------------

/**
 * Schema without `null` and references: {schema, name, nullable, arrayDepth}; `arrayDepth` counts the
 * enclosing arrays.
 */
export function unwrapSchema(schema, find) {
  let [resolved, name, nullable, arrayDepth] = [schema, null, false, 0];
  for (;;) {
    if (resolved.$ref) {
      name = resolved.$ref.split('/').at(-1);
      resolved = find(resolved.$ref);
    } else if (
      resolved.anyOf &&
      resolved.anyOf.some(({ type }) => type === 'null') &&
      resolved.anyOf.length === 2
    ) {
      nullable = true;
      resolved = resolved.anyOf.find(({ type }) => type !== 'null');
    } else if (resolved.type === 'array' && resolved.items) {
      arrayDepth += 1;
      resolved = resolved.items;
    } else return { schema: resolved, name, nullable, arrayDepth };
  }
}

/** Short name of a type: `string`, `Model[]`, `integer or null`, `"a" | "b"`. */
export function typeText(schema, find) {
  const { schema: resolved, name, nullable, arrayDepth } = unwrapSchema(schema, find);
  const list = '[]'.repeat(arrayDepth);
  let text = name && resolved.properties ? name : plainTypeText(resolved, find);
  if (list && text.includes(' ')) text = `(${text})`;
  return `${text}${list}${nullable ? ' or null' : ''}`;
}

function plainTypeText(schema, find) {
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const alternatives = schema.anyOf ?? schema.oneOf;
  if (alternatives) return alternatives.map((each) => typeText(each, find)).join(' or ');
  if (Array.isArray(schema.type)) return schema.type.join(' or ');
  if (schema.type === 'object') {
    const of = schema.additionalProperties;
    return of && typeof of === 'object' && Object.keys(of).length ? `map of ${typeText(of, find)}` : 'object';
  }
  if (schema.type === 'array') return 'array';
  return schema.type ?? 'any';
}

/** Constraints of a value apart from its type. */
export function constraintText({ minimum, maximum, minLength, maxLength, minItems, maxItems, format }) {
  const between = (low, high, unit) => {
    if (low === undefined) return high === undefined ? null : `≤ ${high}${unit}`;
    return high === undefined ? `≥ ${low}${unit}` : `${low}–${high}${unit}`;
  };
  return [
    between(minimum, maximum, ''),
    between(minLength, maxLength, ' characters'),
    between(minItems, maxItems, ' items'),
    format,
  ]
    .filter(Boolean)
    .join(', ');
}

/** Object schemas that can be expanded: [{name, schema}]; several for alternatives. */
export function objectSchemas(schema, find) {
  const { schema: resolved, name } = unwrapSchema(schema, find);
  if (resolved.properties) return [{ name: name ?? '', schema: resolved }];
  const alternatives = resolved.anyOf ?? resolved.oneOf ?? [];
  const map = resolved.additionalProperties;
  return map && typeof map === 'object'
    ? objectSchemas(map, find)
    : alternatives.flatMap((each) => objectSchemas(each, find));
}
