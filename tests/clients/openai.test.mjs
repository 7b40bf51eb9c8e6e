import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { leaves, messages, named, question, url } from "./server.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const ask = { model: "storyteller", messages, temperature: 0, max_tokens: 40 };
const call = { ...ask, tools: [named("weather")], tool_choice: "required", max_tokens: 90 };

test("a stream is an answer with one usage", async () => {
  const options = { include_usage: true };
  const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: options });
  let text = "";
  const roles = [];
  const usages = [];
  const ids = new Set();
  for await (const chunk of stream) {
    ids.add(chunk.id);
    if (chunk.usage) usages.push(chunk.usage);
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      if (choice.delta.role) roles.push(choice.delta.role);
    }
  }
  assert.ok(text);
  assert.deepEqual(roles, ["assistant"]);
  assert.equal(ids.size, 1);
  assert.equal(usages.length, 1);
  assert.ok(usages[0].completion_tokens > 0 && usages[0].completion_tokens <= 40);
});

test("the helper puts a streamed call together", async () => {
  const answer = await client.chat.completions.stream(call).finalChatCompletion();
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [made] = choice.message.tool_calls;
  assert.equal(made.function.name, "weather");
  assert.deepEqual(Object.keys(JSON.parse(made.function.arguments)).sort(), ["city", "days"]);
  const result = { role: "tool", tool_call_id: made.id, content: "sunny" };
  const next = await client.chat.completions.create({ ...ask, messages: [...messages, choice.message, result] });
  assert.ok(next.choices[0].message.content);
});

test("the runner of tools calls the function and goes on", async () => {
  const days = [];
  const tool = { ...named("weather").function, parse: JSON.parse, function: (asked) => void days.push(asked.days) };
  const runner = client.chat.completions.runTools(
    { ...call, tools: [{ type: "function", function: tool }], stream: true },
    { maxChatCompletions: 1 },
  );
  await runner.done();
  assert.equal(days.length, 1);
});

test("text completions stream", async () => {
  const stream = await client.completions.create({ model: "x", prompt: "Once upon a time", max_tokens: 12, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
  assert.ok(text);
});

test("a response streams its events in order, with its usage", async () => {
  const stream = await client.responses.create({ model: "x", input: question, max_output_tokens: 30, stream: true });
  let text = "";
  let next = 0;
  let last;
  for await (const event of stream) {
    assert.equal(event.sequence_number, next++);
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.match(last.type, /^response\.(completed|incomplete)$/);
  assert.ok(text);
  assert.equal(last.response.output[0].content[0].text, text);
  assert.ok(last.response.usage.output_tokens > 0);
});

test("a response calls a function", async () => {
  const tool = { type: "function", strict: true, ...named("weather").function };
  const asked = { model: "x", input: question, tools: [tool], tool_choice: "required", max_output_tokens: 90 };
  const response = await client.responses.stream(asked).finalResponse();
  const made = response.output.find((item) => item.type === "function_call");
  assert.deepEqual(Object.keys(JSON.parse(made.arguments)).sort(), ["city", "days"]);
});

test("a client that leaves frees its slot", { timeout: 200_000 }, async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: -1, ignore_eos: true, stream: true });
  assert.ok((await leaves(stream, () => stream.controller.abort())) >= 3);
});

test("errors have the client's classes", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: -1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  const long = [{ role: "user", content: "a b ".repeat(20_000) }];
  await assert.rejects(client.chat.completions.create({ ...ask, messages: long, stream: true }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
  await assert.rejects(client.models.retrieve("gpt-99"), OpenAI.NotFoundError);
});
