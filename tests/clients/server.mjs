// The server that the tests ask, and what they ask it.
export const url = process.env.SPILLOVER_URL;

export const question = "Tell me a story about a fox named Ruby.";
export const messages = [{ role: "user", content: question }];

// Small enough for every call to fit into the answer.
export const parameters = {
  type: "object",
  properties: {
    city: { type: "string", maxLength: 8 },
    days: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};
export const named = (name) => ({
  type: "function",
  function: { name, description: "The weather of a city.", parameters },
});

// Resolves once no slot works any more; the test runner's time limit ends a wait for nothing.
export async function allIdle() {
  for (;;) {
    const slots = await (await fetch(`${url}/slots`)).json();
    if (slots.every((slot) => slot.state === "idle")) return;
  }
}

// Reads some events of an answer that would never end, leaves, and waits for its slot to be free.
export async function leaves(stream, abort) {
  let count = 0;
  try {
    for await (const _ of stream) {
      count += 1;
      if (count === 3) abort();
    }
  } catch (error) {
    if (!/abort/i.test(`${error.name} ${error.message}`)) throw error;
  }
  await allIdle();
  return count;
}
