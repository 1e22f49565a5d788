// The `ollama` package of Node.

import assert from "node:assert";
import { Ollama } from "ollama";
import * as steps from "./steps.mjs";

const client = new Ollama({ host: steps.URL, headers: { Authorization: `Bearer ${steps.KEY}` } });
const messages = [{ role: "user", content: steps.QUESTION }];
const question = [{ role: "user", content: steps.WEATHER_QUESTION }];
const tools = [
  {
    type: "function",
    function: { name: "get_weather", description: "The weather", parameters: steps.WEATHER_SCHEMA },
  },
];
const options = { num_predict: 8 };

await steps.runSteps({
  async models() {
    const { models } = await client.list();
    assert(models.some((model) => model.name === `${steps.CHAT_MODEL}:latest`));
    const shown = await client.show({ model: steps.CHAT_MODEL });
    assert(shown.capabilities.includes("completion"));
  },
  async chat() {
    const answer = await client.chat({ model: steps.CHAT_MODEL, messages, options });
    assert(answer.message.content);
  },
  async stream() {
    const chunks = await client.chat({ model: steps.CHAT_MODEL, messages, options, stream: true });
    await steps.checkStream(
      (async function* () {
        for await (const chunk of chunks) yield chunk.message.content;
      })(),
    );
  },
  async tool_call() {
    const { message } = await client.chat({ model: steps.TOOL_MODEL, messages: question, tools });
    const [call] = message.tool_calls;
    steps.checkArguments(call.function.arguments);
    const answer = await client.chat({
      model: steps.TOOL_MODEL,
      messages: [...question, message, { role: "tool", tool_name: "get_weather", content: steps.WEATHER }],
      tools,
    });
    assert.equal(answer.message.content, steps.ANSWER);
  },
  async structured_output() {
    const answer = await client.chat({
      model: steps.CHAT_MODEL,
      messages: [{ role: "user", content: steps.CITY_QUESTION }],
      format: steps.CITY_SCHEMA,
    });
    steps.checkCity(JSON.parse(answer.message.content));
  },
  async completion() {
    const answer = await client.generate({ model: steps.CHAT_MODEL, prompt: "Say hello.", options });
    assert(answer.response);
  },
  async embeddings() {
    const found = await client.embed({ model: steps.EMBEDDING_MODEL, input: ["one", "two"] });
    steps.checkVectors(found.embeddings);
  },
});
