/** An OpenAPI document as the page shows it. Pure. */

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
const JSON_TYPE = 'application/json';

/** → {version, about, tags: [{name, text, operations}], operations: by id, codes: [{code, status, text}], everywhere: Set of codes, find(ref)} */
export function reading(told) {
  const find = (ref) => ref.split('/').slice(1).reduce((place, name) => place[name], told);
  const codes = Object.entries(find('#/components/schemas/Error')['x-llb-codes']).map(([code, each]) => ({ code, ...each }));
  const meaning = new Map(codes.map((each) => [each.code, each]));
  const operations = Object.entries(told.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => operation(method, path, item[method], find, meaning)),
  );
  // What any request may be answered is told once.
  const everywhere = new Set(
    codes.map(({ code }) => code).filter((code) => operations.every(({ errors }) => errors.some((each) => each.code === code))),
  );
  return {
    version: told.info.version,
    about: told.info.description,
    tags: told.tags.map(({ name, description }) => ({
      name,
      text: description,
      operations: operations.filter(({ tag }) => tag === name),
    })),
    operations: new Map(operations.map((each) => [each.id, each])),
    codes,
    everywhere,
    find,
  };
}

function operation(method, path, said, find, meaning) {
  const responses = Object.entries(said.responses).map(([status, each]) => [Number(status), each.$ref ? find(each.$ref) : each, each]);
  const answers = responses.filter(([, , each]) => !each.$ref);
  const errors = responses
    .filter(([, , each]) => each.$ref)
    .flatMap(([status, { 'x-llb-codes': names }]) => names.map((code) => ({ ...meaning.get(code), status })));
  const body = said.requestBody?.content[JSON_TYPE].schema ?? null;
  return {
    id: said.operationId,
    tag: said.tags[0],
    method: answers.some(([status]) => status === 101) ? 'WS' : method.toUpperCase(),
    path,
    summary: said.summary,
    text: said.description,
    open: said.security.length === 0,
    parameters: said.parameters,
    body,
    bodies: body ? objectsIn(body, find).map(({ name }) => `${said.operationId}/body/${name}`) : [],
    example: body && (exampleOf(body, find) ?? null),
    answers: answers.map(([status, { description, content = {} }]) => ({
      status,
      text: description,
      kinds: Object.entries(content).map(([type, { schema, 'x-llb-event': event = null }]) => ({ type, schema: event ?? schema })),
    })),
    errors,
    messages: said['x-llb-messages'] ?? null,
  };
}

const exampleOf = (schema, find) => (schema.$ref ? find(schema.$ref) : schema).examples?.[0];

/** The tags with those of their operations in which all `words` stand; a tag without any is left out. */
export function matching(tags, text) {
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

/** Without `null` and references: {schema, name, nullable, several}; `several` counts the lists around it. */
export function inner(schema, find) {
  let [here, name, nullable, several] = [schema, null, false, 0];
  for (;;) {
    if (here.$ref) {
      name = here.$ref.split('/').at(-1);
      here = find(here.$ref);
    } else if (here.anyOf && here.anyOf.some(({ type }) => type === 'null') && here.anyOf.length === 2) {
      nullable = true;
      here = here.anyOf.find(({ type }) => type !== 'null');
    } else if (here.type === 'array' && here.items) {
      several += 1;
      here = here.items;
    } else return { schema: here, name, nullable, several };
  }
}

/** The kind of a value in a few words: `string`, `Model[]`, `integer or null`, `"a" | "b"`. */
export function kindOf(schema, find) {
  const { schema: here, name, nullable, several } = inner(schema, find);
  const list = '[]'.repeat(several);
  let text = name && here.properties ? name : plain(here, find);
  if (list && text.includes(' ')) text = `(${text})`;
  return `${text}${list}${nullable ? ' or null' : ''}`;
}

function plain(schema, find) {
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const ways = schema.anyOf ?? schema.oneOf;
  if (ways) return ways.map((each) => kindOf(each, find)).join(' or ');
  if (Array.isArray(schema.type)) return schema.type.join(' or ');
  if (schema.type === 'object') {
    const of = schema.additionalProperties;
    return of && typeof of === 'object' && Object.keys(of).length ? `map of ${kindOf(of, find)}` : 'object';
  }
  if (schema.type === 'array') return 'array';
  return schema.type ?? 'any';
}

/** What a value has to keep to besides its kind. */
export function bounds({ minimum, maximum, minLength, maxLength, minItems, maxItems, format }) {
  const between = (low, high, unit) => {
    if (low === undefined) return high === undefined ? null : `≤ ${high}${unit}`;
    return high === undefined ? `≥ ${low}${unit}` : `${low}–${high}${unit}`;
  };
  return [between(minimum, maximum, ''), between(minLength, maxLength, ' characters'), between(minItems, maxItems, ' items'), format]
    .filter(Boolean)
    .join(', ');
}

/** The objects that can be looked into: [{name, schema}]; several where a value may be one of them. */
export function objectsIn(schema, find) {
  const { schema: here, name } = inner(schema, find);
  if (here.properties) return [{ name: name ?? '', schema: here }];
  const ways = here.anyOf ?? here.oneOf ?? [];
  const map = here.additionalProperties;
  return map && typeof map === 'object' ? objectsIn(map, find) : ways.flatMap((each) => objectsIn(each, find));
}
