import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { allIdle, messages, parameters, question, url } from "./server.mjs";

const provider = createOpenAICompatible({
  name: "spillover",
  baseURL: `${url}/v1`,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider("storyteller");
const ask = { model, messages, temperature: 0, maxOutputTokens: 40, maxRetries: 0 };

test("a stream is a text with usage", async () => {
  const result = streamText(ask);
  let text = "";
  for await (const part of result.textStream) text += part;
  assert.ok(text);
  assert.equal(await result.text, text);
  assert.match(await result.finishReason, /^(stop|length)$/);
  const usage = await result.usage;
  assert.ok(usage.inputTokens > 5);
  assert.ok(usage.outputTokens > 0 && usage.outputTokens <= 40);
});

test("a tool is executed, and the answer goes on", async () => {
  const asked = [];
  const weather = tool({
    description: "The weather of a city.",
    inputSchema: jsonSchema(parameters),
    execute: async (input) => {
      asked.push(input);
      return { sky: "blue" };
    },
  });
  const result = streamText({ ...ask, tools: { weather }, toolChoice: "required", maxOutputTokens: 90 });
  await result.consumeStream();
  assert.equal(await result.finishReason, "tool-calls");
  assert.deepEqual(Object.keys(asked[0]).sort(), ["city", "days"]);
  const { messages: made } = await result.response;
  const next = await generateText({ ...ask, messages: [...messages, ...made] });
  assert.ok(next.text);
});

test("a schema shapes the answer", async () => {
  const output = Output.object({ schema: jsonSchema(parameters) });
  const result = await generateText({ ...ask, maxOutputTokens: 90, output });
  assert.deepEqual(Object.keys(result.output).sort(), ["city", "days"]);
});

test("a client that leaves frees its slot", { timeout: 200_000 }, async () => {
  const controller = new AbortController();
  const endless = { ...ask, maxOutputTokens: 1_000_000, providerOptions: { spillover: { ignore_eos: true } } };
  const result = streamText({ ...endless, abortSignal: controller.signal, onError: () => {} });
  let count = 0;
  let isAborted = false;
  for await (const part of result.fullStream) {
    if (part.type === "text-delta" && ++count === 3) controller.abort();
    isAborted ||= part.type === "abort";
  }
  assert.ok(isAborted);
  await allIdle();
});

test("errors have the client's class", async () => {
  await assert.rejects(generateText({ ...ask, temperature: -1 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /temperature/);
    return true;
  });
  const long = generateText({ ...ask, messages: undefined, prompt: `${question} ${"a b ".repeat(20_000)}` });
  await assert.rejects(long, /context/);
});
