// Steps of a client program, as in tests/clients/programs/steps.py.

import assert from "node:assert";

export const {
  LLB_URL: URL,
  LLB_KEY: KEY,
  LLB_CHAT_MODEL: CHAT_MODEL,
  LLB_TOOL_MODEL: TOOL_MODEL,
  LLB_EMBEDDING_MODEL: EMBEDDING_MODEL,
  LLB_ANSWER: ANSWER,
} = process.env;
export const QUESTION = "Say hello.";
export const WEATHER_QUESTION = "What is the weather in Oslo?";
export const CITY_QUESTION = "Name a city of Norway, and whether few or many people live there.";
export const WEATHER = "It rains in Oslo.";
export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string", description: "name of the city" } },
  required: ["city"],
};
export const CITY_SCHEMA = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Oslo", "Bergen"] },
    people: { type: "string", enum: ["few", "many"] },
  },
  required: ["city", "people"],
  additionalProperties: false,
};

/** Run each step and print its result as a line of JSON. A failed step does not stop the others. */
export async function runSteps(steps) {
  for (const [name, step] of Object.entries(steps)) {
    await fetch(`${URL}/record/${name}`);
    let error = null;
    try {
      await step();
    } catch (exception) {
      error = String(exception).replace(/\s+/g, " ");
    }
    console.log(JSON.stringify({ step: name, error }));
  }
}

export async function checkStream(pieces) {
  const texts = [];
  for await (const piece of pieces) {
    if (piece) texts.push(piece);
  }
  assert(texts.length > 1, JSON.stringify(texts));
}

export function checkCity(city) {
  assert(["Oslo", "Bergen"].includes(city.city));
  assert(["few", "many"].includes(city.people));
}

export function checkArguments(args) {
  assert.deepEqual(typeof args === "string" ? JSON.parse(args) : args, { city: "Oslo" });
}

export function checkVectors(vectors) {
  assert.deepEqual(
    vectors.map((vector) => vector.length),
    [64, 64],
  );
}
