/** pages/docs/openapi.js and curl.js. */

import { asCurl } from '/web/pages/docs/curl.js';
import {
  constraintText,
  typeText,
  searchOperations,
  objectSchemas,
  parseOpenApi,
} from '/web/pages/docs/openapi.js';
import { equal, test } from './runner.js';

const refused = (...codes) => ({ 'x-llb-codes': codes });

const document = {
  info: { version: '1.2.3', description: 'About.' },
  tags: [
    { name: 'Models', description: 'All of them.' },
    { name: 'Nodes', description: 'None.' },
  ],
  paths: {
    '/api/models': {
      get: {
        operationId: 'models.list',
        tags: ['Models'],
        summary: 'List',
        description: 'Needs a scope.',
        security: [{ bearer: [] }],
        parameters: [{ name: 'limit', in: 'query', schema: { type: 'integer', minimum: 1 } }],
        responses: {
          200: {
            description: 'OK.',
            content: { 'application/json': { schema: { $ref: '#/components/schemas/Model' } } },
          },
          400: { $ref: '#/components/responses/bad' },
        },
      },
      post: {
        operationId: 'models.pull',
        tags: ['Models'],
        summary: 'Pull',
        description: '',
        security: [],
        parameters: [],
        requestBody: { content: { 'application/json': { schema: { $ref: '#/components/schemas/Model' } } } },
        responses: { 204: { description: 'Done.' }, 404: { $ref: '#/components/responses/gone' } },
      },
    },
  },
  components: {
    schemas: {
      Error: { 'x-llb-codes': { bad: { status: 400, text: 'Bad.' }, gone: { status: 404, text: 'Gone.' } } },
      Model: {
        type: 'object',
        required: ['id'],
        properties: {
          id: { type: 'string' },
          next: { anyOf: [{ $ref: '#/components/schemas/Model' }, { type: 'null' }] },
        },
        examples: [{ id: "it's" }],
      },
    },
    responses: { bad: refused('bad'), gone: refused('bad', 'gone') },
  },
};

const known = parseOpenApi(document);

test('operations stand under their tags, with what they take and answer', () => {
  equal(
    known.tags.map(({ name, operations }) => [name, operations.map(({ id }) => id)]),
    [
      ['Models', ['models.list', 'models.pull']],
      ['Nodes', []],
    ],
  );
  const [list, pull] = known.tags[0].operations;
  equal([list.method, list.path, list.open, list.body], ['GET', '/api/models', false, null]);
  equal(
    list.responses.map(({ status, contents }) => [status, contents.map(({ type }) => type)]),
    [[200, ['application/json']]],
  );
  equal(pull.example, { id: "it's" });
  equal(pull.bodySections, ['models.pull/body/Model']);
  equal(
    pull.errors.map(({ code, status }) => [code, status]),
    [
      ['bad', 404],
      ['gone', 404],
    ],
  );
});

test('what any request may be answered is known', () => {
  equal([...known.commonErrors], ['bad']);
});

test('all words of a search have to be there, wherever', () => {
  const found = (text) =>
    searchOperations(known.tags, text).flatMap(({ operations }) => operations.map(({ id }) => id));
  equal(found(''), ['models.list', 'models.pull']);
  equal(found('POST models'), ['models.pull']);
  equal(found('limit'), ['models.list']);
  equal(found('gone'), ['models.pull']);
  equal(found('models nothing'), []);
});

test('a kind is told in a few words', () => {
  const of = (schema) => typeText(schema, known.find);
  equal(of({ type: 'string' }), 'string');
  equal(of({ anyOf: [{ type: 'integer' }, { type: 'null' }] }), 'integer or null');
  equal(of({ type: 'array', items: { $ref: '#/components/schemas/Model' } }), 'Model[]');
  equal(
    of({ type: 'array', items: { anyOf: [{ type: 'integer' }, { const: 'all' }] } }),
    '(integer or "all")[]',
  );
  equal(of({ enum: ['a', 'b'] }), '"a" | "b"');
  equal(of({ type: 'object', additionalProperties: { type: 'string' } }), 'map of string');
  equal(of({}), 'any');
});

test('limits are told with their units', () => {
  equal(constraintText({ minimum: 1, maximum: 1000 }), '1–1000');
  equal(constraintText({ minimum: 0 }), '≥ 0');
  equal(constraintText({ maxLength: 5, format: 'date-time' }), '≤ 5 characters, date-time');
  equal(constraintText({}), '');
});

test('objects are found in lists, in choices and in themselves', () => {
  const names = (schema) => objectSchemas(schema, known.find).map(({ name }) => name);
  equal(names({ type: 'array', items: { $ref: '#/components/schemas/Model' } }), ['Model']);
  equal(names(known.find('#/components/schemas/Model').properties.next), ['Model']);
  equal(names({ anyOf: [{ $ref: '#/components/schemas/Model' }, { type: 'string' }] }), ['Model']);
  equal(names({ type: 'string' }), []);
});

test('an operation as a command line', () => {
  const [list, pull] = known.tags[0].operations;
  equal(
    asCurl('http://attic', list),
    "curl 'http://attic/api/models' \\\n  -H 'Authorization: Bearer sk-your-api-key'",
  );
  equal(
    asCurl('http://attic', pull),
    "curl -X POST 'http://attic/api/models' \\\n  -H 'Content-Type: application/json' \\\n  -d '{\n  \"id\": \"it'\\''s\"\n}'",
  );
  equal(asCurl('http://attic', { ...list, method: 'WS' }), null);
});
