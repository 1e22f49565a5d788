// The `@anthropic-ai/sdk` package.

import assert from "node:assert";
import Anthropic from "@anthropic-ai/sdk";
import * as steps from "./steps.mjs";

const client = new Anthropic({ baseURL: steps.URL, apiKey: steps.KEY, maxRetries: 0 });
const messages = [{ role: "user", content: steps.QUESTION }];
const question = [{ role: "user", content: steps.WEATHER_QUESTION }];
const tools = [{ name: "get_weather", input_schema: steps.WEATHER_SCHEMA }];

await steps.runSteps({
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert(ids.includes(steps.CHAT_MODEL));
  },
  async chat() {
    const answer = await client.messages.create({ model: steps.CHAT_MODEL, max_tokens: 8, messages });
    assert(answer.content[0].text);
  },
  async stream() {
    const pieces = [];
    const stream = client.messages.stream({ model: steps.CHAT_MODEL, max_tokens: 8, messages });
    stream.on("text", (piece) => pieces.push(piece));
    const message = await stream.finalMessage();
    await steps.checkStream(pieces);
    assert(message.usage.output_tokens);
  },
  async tool_call() {
    const called = await client.messages.create({
      model: steps.TOOL_MODEL,
      max_tokens: 200,
      messages: question,
      tools,
      tool_choice: { type: "tool", name: "get_weather" },
    });
    assert.equal(called.stop_reason, "tool_use");
    const call = called.content.find((block) => block.type === "tool_use");
    steps.checkArguments(call.input);
    const result = { type: "tool_result", tool_use_id: call.id, content: steps.WEATHER };
    const answer = await client.messages.create({
      model: steps.TOOL_MODEL,
      max_tokens: 200,
      messages: [
        ...question,
        { role: "assistant", content: called.content },
        { role: "user", content: [result] },
      ],
      tools,
    });
    assert.equal(answer.content.find((block) => block.type === "text").text, steps.ANSWER);
  },
  async streamed_tool_call() {
    const stream = client.messages.stream({
      model: steps.TOOL_MODEL,
      max_tokens: 200,
      messages: question,
      tools,
    });
    const called = await stream.finalMessage();
    steps.checkArguments(called.content.find((block) => block.type === "tool_use").input);
  },
  async structured_output() {
    const answer = await client.messages.parse({
      model: steps.CHAT_MODEL,
      max_tokens: 100,
      messages: [{ role: "user", content: steps.CITY_QUESTION }],
      output_config: { format: { type: "json_schema", schema: steps.CITY_SCHEMA } },
    });
    steps.checkCity(JSON.parse(answer.content.find((block) => block.type === "text").text));
  },
  async count_tokens() {
    const counted = await client.messages.countTokens({ model: steps.CHAT_MODEL, messages });
    assert(counted.input_tokens > 2);
  },
});
