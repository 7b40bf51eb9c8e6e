import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";
import { leaves, messages, parameters, question, url } from "./server.mjs";

const client = new Ollama({ host: url });
const ask = { model: "storyteller", messages, options: { temperature: 0, num_predict: 40 } };

test("a stream is an answer with counts", async () => {
  let text = "";
  let last;
  for await (const part of await client.chat({ ...ask, stream: true })) {
    text += part.message.content;
    last = part;
  }
  assert.ok(text);
  assert.ok(last.done);
  assert.ok(last.eval_count > 0 && last.eval_count <= 40);
  const whole = await client.generate({ model: "x", prompt: question, options: ask.options });
  assert.ok(whole.response);
});

test("a schema shapes the answer, and calls are taken", async () => {
  const options = { temperature: 0, num_predict: 90 };
  const shaped = await client.chat({ ...ask, format: parameters, options });
  assert.deepEqual(Object.keys(JSON.parse(shaped.message.content)).sort(), ["city", "days"]);
  const tool = { type: "function", function: { name: "weather", description: "Of a city.", parameters } };
  const made = { function: { name: "weather", arguments: { city: "Brno", days: 2 } } };
  const history = [
    ...messages,
    { role: "assistant", content: "", tool_calls: [made] },
    { role: "tool", tool_name: "weather", content: "sunny" },
  ];
  const next = await client.chat({ ...ask, messages: history, tools: [tool] });
  assert.ok(next.message.content || next.message.tool_calls);
});

test("the model is listed and described", async () => {
  const { models } = await client.list();
  assert.equal(models[0].name, "storyteller");
  const shown = await client.show({ model: models[0].name });
  assert.ok(shown.capabilities.includes("completion"));
});

test("a client that leaves frees its slot", { timeout: 200_000 }, async () => {
  const stream = await client.chat({ ...ask, options: { num_predict: -1, ignore_eos: true }, stream: true });
  assert.ok((await leaves(stream, () => stream.abort())) >= 3);
});

test("errors have the client's class", async () => {
  const wrong = client.chat({ ...ask, options: { num_ctx: 10_000_000 } });
  await assert.rejects(wrong, (error) => error.name === "ResponseError" && error.status_code === 400);
});
