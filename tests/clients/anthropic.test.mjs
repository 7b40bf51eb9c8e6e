import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { leaves, messages, parameters, url } from "./server.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "unused", authToken: null, maxRetries: 0 });
const ask = { model: "claude-any", messages, temperature: 0, max_tokens: 40 };
const weather = { name: "weather", description: "The weather of a city.", input_schema: parameters };
const call = { ...ask, tools: [weather], tool_choice: { type: "tool", name: "weather" }, max_tokens: 90 };

test("a stream is a message with usage", async () => {
  const stream = client.messages.stream(ask);
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const message = await stream.finalMessage();
  assert.ok(text);
  assert.equal(message.content[0].text, text);
  assert.match(message.stop_reason, /^(end_turn|max_tokens)$/);
  assert.ok(message.usage.output_tokens > 0 && message.usage.output_tokens <= 40);
  const counted = await client.messages.countTokens({ model: "x", messages });
  const cached = message.usage.cache_read_input_tokens ?? 0;
  assert.equal(message.usage.input_tokens + cached, counted.input_tokens);
});

test("a call is streamed, and its result taken", async () => {
  const message = await client.messages.stream(call).finalMessage();
  const [made] = message.content;
  assert.equal(message.stop_reason, "tool_use");
  assert.deepEqual(Object.keys(made.input).sort(), ["city", "days"]);
  const result = { type: "tool_result", tool_use_id: made.id, content: "sunny" };
  const history = [...messages, { role: "assistant", content: message.content }, { role: "user", content: [result] }];
  const next = await client.messages.create({ ...ask, messages: history, tools: [weather] });
  assert.ok(next.content.length);
});

test("a client that leaves frees its slot", { timeout: 200_000 }, async () => {
  const stream = await client.messages.create({ ...ask, max_tokens: 100_000, ignore_eos: true, stream: true });
  assert.ok((await leaves(stream, () => stream.controller.abort())) >= 3);
});

test("errors have the client's classes", async () => {
  await assert.rejects(client.messages.create({ ...ask, temperature: -1 }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.equal(error.error.error.type, "invalid_request_error");
    return true;
  });
  const long = [{ role: "user", content: "a b ".repeat(20_000) }];
  const broken = client.messages.create({ ...ask, messages: long, stream: true });
  await assert.rejects(broken, /prompt is too long/);
  await assert.rejects(client.models.retrieve("claude-99"), Anthropic.NotFoundError);
});
