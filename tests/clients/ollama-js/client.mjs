// Ollama's library for JavaScript.
import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { FAULTY_URL, URL_, WAITED, WEATHER, passed, thrown, user } from "./gateway.mjs";

const key = await user();
const clientOf = (host, key) => new Ollama({ host, headers: { Authorization: `Bearer ${key}` } });
const client = clientOf(URL_, key);
const ask = (prompt) => [{ role: "user", content: prompt }];

async function chatAndGenerate() {
  const plain = await client.chat({ model: "llama3.2", messages: ask("hello") });
  assert.ok(plain.done && plain.eval_count > 0);
  let text = "";
  for await (const part of await client.chat({ model: "llama3.2", messages: ask("hello"), stream: true })) {
    text += part.message.content;
  }
  assert.equal(text, plain.message.content);
  const short = await client.generate({ model: "llama3.2", prompt: "[[n=90]]", options: { num_predict: 3, num_ctx: 8192 } });
  assert.deepEqual([short.eval_count, short.done_reason], [3, "length"]);
  const tools = [{ type: "function", function: WEATHER }];
  const called = await client.chat({ model: "llama3.2", messages: ask("What is the weather?"), tools });
  assert.equal(called.message.tool_calls[0].function.name, "weather");
}

async function lists() {
  assert.ok((await client.list()).models.some((model) => model.name === "llama3.2:latest"));
  const shown = await client.show({ model: "llama3.2" });
  assert.ok(shown.capabilities.includes("tools") && shown.template === undefined);
  assert.ok(Array.isArray((await client.ps()).models));
  assert.ok((await client.version()).version);
}

async function embeddings() {
  const two = await client.embed({ model: "all-minilm", input: ["one", "two"] });
  assert.equal(two.embeddings.length, 2);
  const old = await client.embeddings({ model: "all-minilm", prompt: "two" });
  assert.ok(old.embedding.length > 0);
}

async function loadAndUnload() {
  assert.equal((await client.generate({ model: "llama3.2", prompt: "" })).done_reason, "load");
  assert.equal((await client.generate({ model: "llama3.2", prompt: "", keep_alive: 0 })).done_reason, "unload");
}

async function errors() {
  const missing = await thrown(() => client.chat({ model: "nothere", messages: ask("hi") }));
  assert.ok(missing.status_code === 404 && missing.message.includes("nothere"), missing.message);
  const wrong = await thrown(() => clientOf(URL_, "sk-wrong").list());
  assert.ok(wrong.status_code === 401 && wrong.message.startsWith("Incorrect API key"), wrong.message);
  for (const manage of [
    () => client.pull({ model: "llama3.2" }),
    () => client.delete({ model: "llama3.2" }),
    () => client.copy({ source: "llama3.2", destination: "x" }),
    () => client.create({ model: "x", from: "llama3.2" }),
  ]) {
    const refused = await thrown(manage);
    assert.ok(refused.status_code === 403 && refused.message.includes("operator"), refused.message);
  }
}

async function keyInThePath() {
  const keyed = new Ollama({ host: `${URL_}/k/${key}` });
  assert.ok((await keyed.chat({ model: "llama3.2", messages: ask("[[n=1]]") })).message.content);
}

async function waitsAndBreaks() {
  const faulty = clientOf(FAULTY_URL, await user({}, FAULTY_URL));
  const read = async (model, seen) => {
    for await (const part of await faulty.chat({ model, messages: ask("hi"), stream: true })) seen.push(part.message.content);
  };
  const waited = [];
  await read("waits", waited);
  assert.equal(waited.join(""), WAITED);
  const seen = [];
  const broken = await thrown(() => read("breaks", seen));
  assert.equal(seen.join(""), "one two three");
  assert.ok(broken.message.includes("incomplete"), broken.message);
}

await chatAndGenerate();
await lists();
await embeddings();
await loadAndUnload();
await errors();
await keyInThePath();
await waitsAndBreaks();
passed("ollama");
