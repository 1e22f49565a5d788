// The `ai` package with `@ai-sdk/openai-compatible`.

import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import * as steps from "./steps.mjs";

const llb = createOpenAICompatible({
  name: "llb",
  baseURL: `${steps.URL}/v1`,
  apiKey: steps.KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const tools = {
  get_weather: tool({
    description: "Return the weather in a city",
    inputSchema: jsonSchema(steps.WEATHER_SCHEMA),
    async execute(args) {
      steps.checkArguments(args);
      return steps.WEATHER;
    },
  }),
};

await steps.runSteps({
  async chat() {
    const answer = await generateText({
      model: llb(steps.CHAT_MODEL),
      prompt: steps.QUESTION,
      maxOutputTokens: 8,
      maxRetries: 0,
    });
    assert(answer.text);
  },
  async stream() {
    const { textStream } = streamText({
      model: llb(steps.CHAT_MODEL),
      prompt: steps.QUESTION,
      maxOutputTokens: 8,
      maxRetries: 0,
    });
    await steps.checkStream(textStream);
  },
  async tool_call() {
    const answer = await generateText({
      model: llb(steps.TOOL_MODEL),
      prompt: steps.WEATHER_QUESTION,
      tools,
      stopWhen: isStepCount(3),
      maxRetries: 0,
    });
    assert.equal(answer.text, steps.ANSWER);
  },
  async streamed_tool_call() {
    const result = streamText({
      model: llb(steps.TOOL_MODEL),
      prompt: steps.WEATHER_QUESTION,
      tools,
      toolChoice: "auto",
      stopWhen: isStepCount(3),
      maxRetries: 0,
    });
    assert.equal(await result.text, steps.ANSWER);
  },
  async structured_output() {
    const answer = await generateText({
      model: llb(steps.CHAT_MODEL),
      prompt: steps.CITY_QUESTION,
      output: Output.object({ schema: jsonSchema(steps.CITY_SCHEMA) }),
      maxRetries: 0,
    });
    steps.checkCity(answer.output);
  },
  async embeddings() {
    const found = await embedMany({
      model: llb.embeddingModel(steps.EMBEDDING_MODEL),
      values: ["one", "two"],
      maxRetries: 0,
    });
    steps.checkVectors(found.embeddings);
  },
});
