// OpenAI's SDK for JavaScript.
import assert from "node:assert/strict";
import OpenAI from "openai";
import {
  FAULTY_URL, URL_, WAITED, WEATHER, passed, statusesOnce, thrown, user, whileTokensAreHeld,
} from "./gateway.mjs";

const key = await user();
const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: key });
const ask = (prompt) => [{ role: "user", content: prompt }];

async function chatAndStream() {
  const plain = await client.chat.completions.create({ model: "llama3.2", messages: ask("hello") });
  assert.ok(plain.id.startsWith("chatcmpl-") && plain.id.includes(plain._request_id));
  const stream = await client.chat.completions.create({
    model: "llama3.2", messages: ask("hello"), stream: true, stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, plain.choices[0].message.content);
  assert.deepEqual(chunks.at(-1).usage, plain.usage);
  const short = await client.chat.completions.create({
    model: "llama3.2", messages: ask("[[n=90]]"), max_completion_tokens: 3,
  });
  assert.deepEqual([short.usage.completion_tokens, short.choices[0].finish_reason], [3, "length"]);
}

async function tools() {
  const asked = { model: "llama3.2", messages: ask("What is the weather?"), tools: [{ type: "function", function: WEATHER }] };
  const called = await client.chat.completions.create(asked);
  assert.equal(called.choices[0].finish_reason, "tool_calls");
  assert.equal(called.choices[0].message.tool_calls[0].function.name, "weather");
  const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.name, "weather");
}

async function responses() {
  const plain = await client.responses.create({ model: "llama3.2", input: "hello" });
  assert.ok(plain.id.startsWith("resp_") && plain.output_text);
  const events = [];
  for await (const event of await client.responses.create({ model: "llama3.2", input: "hello", stream: true })) {
    events.push(event);
  }
  assert.deepEqual([events[0].type, events.at(-1).type], ["response.created", "response.completed"]);
  const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(text, plain.output_text);
}

async function embeddings() {
  const encoded = await client.embeddings.create({ model: "all-minilm", input: ["one", "two"] });
  const floats = await client.embeddings.create({ model: "all-minilm", input: ["one", "two"], encoding_format: "float" });
  assert.equal(encoded.data.length, 2);
  const [a, b] = [encoded.data[1].embedding, floats.data[1].embedding];
  assert.ok(a.length === b.length && a.every((x, at) => Math.abs(x - b[at]) < 1e-6));
}

async function modelsAndBaseUrls() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes("llama3.2:latest"));
  assert.equal((await client.models.retrieve("llama3.2:1b")).id, "llama3.2:1b");
  for (const baseURL of [`${URL_}/v1/`, `${URL_}/v1//`, URL_, `${URL_}/`]) {
    const other = new OpenAI({ baseURL, apiKey: key });
    assert.ok((await other.chat.completions.create({ model: "llama3.2", messages: ask("[[n=1]]") })).choices, baseURL);
  }
}

async function errors() {
  const wrong = await thrown(() => new OpenAI({ baseURL: `${URL_}/v1`, apiKey: "sk-wrong" }).models.list());
  assert.ok(wrong instanceof OpenAI.AuthenticationError && wrong.code === "invalid_api_key" && wrong.requestID);
  const missing = await thrown(() => client.chat.completions.create({ model: "nothere", messages: ask("hi") }));
  assert.ok(missing instanceof OpenAI.NotFoundError && missing.code === "model_not_found");
  const bad = await thrown(() => client.chat.completions.create({ model: "llama3.2", messages: [] }));
  assert.ok(bad instanceof OpenAI.BadRequestError && bad.param === "messages");
}

async function retries() {
  const limited = await user({ tokens_per_day: 10_000 });
  const other = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: limited });
  const asked = { model: "llama3.2", messages: ask("hi"), max_tokens: 2000 };
  await whileTokensAreHeld(limited, async () => {
    const refused = await thrown(() => other.chat.completions.create(asked));
    assert.ok(refused instanceof OpenAI.RateLimitError && refused.code === "rate_limit_exceeded");
    assert.deepEqual(await statusesOnce(limited, 3), ["refused", "refused", "refused"], "three attempts");
  });
  await statusesOnce(limited, 4);
  assert.ok((await other.chat.completions.create({ ...asked, messages: ask("[[n=1]]"), max_tokens: 100 })).choices);

  // A window that passes while the client waits: it comes back by itself, and succeeds.
  const patient = await user({ tokens_per_day: 10_000 });
  let late;
  await whileTokensAreHeld(patient, async () => {
    late = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: patient }).chat.completions
      .create({ ...asked, messages: ask("[[n=1]]") });
    await new Promise((done) => setTimeout(done, 500));
  });
  assert.ok((await late).choices);
  assert.deepEqual(await statusesOnce(patient, 3), ["cancelled", "completed", "refused"]);

  const spent = await user({ tokens_per_day: 100 });
  const poor = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: spent });
  const refused = await thrown(() => poor.chat.completions.create(asked));
  assert.equal(refused.code, "insufficient_quota");
  assert.deepEqual(await statusesOnce(spent, 1), ["refused"], "one attempt, as another cannot help");
}

async function waitsAndBreaks() {
  const faulty = new OpenAI({ baseURL: `${FAULTY_URL}/v1`, apiKey: await user({}, FAULTY_URL) });
  const read = async (model, seen) => {
    for await (const chunk of await faulty.chat.completions.create({ model, messages: ask("hi"), stream: true })) {
      seen.push(chunk.choices[0].delta.content ?? "");
    }
  };
  const waited = [];
  await read("waits", waited);
  assert.equal(waited.join(""), WAITED);
  const seen = [];
  const broken = await thrown(() => read("breaks", seen));
  assert.equal(seen.join(""), "one two three");
  assert.ok(broken instanceof OpenAI.APIError && broken.message.includes("incomplete"), broken);
}

await chatAndStream();
await tools();
await responses();
await embeddings();
await modelsAndBaseUrls();
await errors();
await retries();
await waitsAndBreaks();
passed("openai");
