// The `openai` package of Node.

import assert from "node:assert";
import OpenAI from "openai";
import * as steps from "./steps.mjs";

const client = new OpenAI({ baseURL: `${steps.URL}/v1`, apiKey: steps.KEY, maxRetries: 0 });
const messages = [{ role: "user", content: steps.QUESTION }];
const question = [{ role: "user", content: steps.WEATHER_QUESTION }];
const tools = [
  { type: "function", function: { name: "get_weather", parameters: steps.WEATHER_SCHEMA } },
];
const schema = { name: "city", schema: steps.CITY_SCHEMA, strict: true };

await steps.runSteps({
  async models() {
    const ids = [];
    for await (const model of await client.models.list()) ids.push(model.id);
    assert(ids.includes(steps.CHAT_MODEL));
  },
  async chat() {
    const answer = await client.chat.completions.create({ model: steps.CHAT_MODEL, messages, max_tokens: 8 });
    assert(answer.choices[0].message.content);
  },
  async stream() {
    const chunks = await client.chat.completions.create({
      model: steps.CHAT_MODEL,
      messages,
      max_tokens: 8,
      stream: true,
      stream_options: { include_usage: true },
    });
    await steps.checkStream(
      (async function* () {
        for await (const chunk of chunks) yield chunk.choices[0]?.delta.content;
      })(),
    );
  },
  async tool_call() {
    const called = await client.chat.completions.create({
      model: steps.TOOL_MODEL,
      messages: question,
      tools,
      tool_choice: "required",
    });
    const { message } = called.choices[0];
    const [call] = message.tool_calls;
    steps.checkArguments(call.function.arguments);
    const answer = await client.chat.completions.create({
      model: steps.TOOL_MODEL,
      messages: [...question, message, { role: "tool", tool_call_id: call.id, content: steps.WEATHER }],
      tools,
    });
    assert.equal(answer.choices[0].message.content, steps.ANSWER);
  },
  async streamed_tool_call() {
    const runner = client.chat.completions.stream({ model: steps.TOOL_MODEL, messages: question, tools });
    const called = await runner.finalChatCompletion();
    steps.checkArguments(called.choices[0].message.tool_calls[0].function.arguments);
  },
  async structured_output() {
    const answer = await client.chat.completions.parse({
      model: steps.CHAT_MODEL,
      messages: [{ role: "user", content: steps.CITY_QUESTION }],
      response_format: { type: "json_schema", json_schema: schema },
    });
    steps.checkCity(JSON.parse(answer.choices[0].message.content));
  },
  async responses() {
    const answer = await client.responses.create({
      model: steps.CHAT_MODEL,
      input: steps.QUESTION,
      max_output_tokens: 8,
    });
    assert(answer.output_text);
  },
  async streamed_responses() {
    const stream = client.responses.stream({
      model: steps.CHAT_MODEL,
      input: steps.CITY_QUESTION,
      text: { format: { type: "json_schema", ...schema } },
    });
    const response = await stream.finalResponse();
    steps.checkCity(JSON.parse(response.output_text));
  },
  async embeddings() {
    const found = await client.embeddings.create({ model: steps.EMBEDDING_MODEL, input: ["one", "two"] });
    steps.checkVectors(found.data.map((item) => item.embedding));
  },
});
