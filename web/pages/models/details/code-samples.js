/** Code that calls a model, per client. Pure. */

export const CLIENTS = ['curl', 'python', 'javascript', 'claude', 'webui'];
const KEY = 'sk-your-api-key';

/** Clients that can use a model: only chat models have all of them. */
export const clientsFor = ({ capabilities }) =>
  capabilities.includes('TextGeneration') ? CLIENTS : CLIENTS.slice(0, 3);

/** Sample for `client`; `origin` is the address of llb. */
export const codeSample = (client, model, origin) => samples[client](model.id, origin, callOf(model));

/** Endpoint and body of a first call. */
function callOf({ id, capabilities }) {
  if (capabilities.includes('Embedding'))
    return { path: 'embeddings', body: { model: id, input: 'llamas carry wool' }, python: 'embeddings' };
  if (capabilities.includes('Reranking'))
    return {
      path: 'rerank',
      body: { model: id, query: 'llamas', documents: ['wool', 'gears'] },
    };
  const messages = [{ role: 'user', content: 'Hello!' }];
  return { path: 'chat/completions', body: { model: id, messages }, python: 'chat.completions' };
}

const samples = {
  curl: (id, origin, { path, body }) => `curl ${origin}/v1/${path} \\
  -H 'Authorization: Bearer ${KEY}' \\
  -H 'Content-Type: application/json' \\
  -d '${JSON.stringify(body)}'`,

  python: (id, origin, { path, body, python }) => {
    if (!python)
      return `import httpx

response = httpx.post(
    "${origin}/v1/${path}",
    headers={"Authorization": "Bearer ${KEY}"},
    json=${JSON.stringify(body)},
)
print(response.json())`;
    const result = path === 'embeddings' ? 'data[0].embedding' : 'choices[0].message.content';
    const [, ...fields] = Object.entries(body);
    return `from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key="${KEY}")
response = client.${python}.create(
    model="${id}",
${fields.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`).join('\n')}
)
print(response.${result})`;
  },

  javascript: (id, origin, { path, body }) => `const response = await fetch('${origin}/v1/${path}', {
  method: 'POST',
  headers: { authorization: 'Bearer ${KEY}', 'content-type': 'application/json' },
  body: JSON.stringify(${JSON.stringify(body)}),
});
console.log(await response.json());`,

  claude: (id, origin) => `export ANTHROPIC_BASE_URL=${origin}
export ANTHROPIC_AUTH_TOKEN=${KEY}
claude --model ${id}`,

  webui: (id, origin) => `OPENAI_API_BASE_URL=${origin}/v1
OPENAI_API_KEY=${KEY}`,
};
