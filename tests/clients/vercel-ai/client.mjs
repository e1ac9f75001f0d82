// Vercel's AI SDK with its provider for servers like this one.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { FAULTY_URL, URL_, WAITED, passed, statusesOnce, thrown, user, whileTokensAreHeld } from "./gateway.mjs";

const providerOf = (url, apiKey, options = {}) =>
  createOpenAICompatible({ name: "gateway", baseURL: `${url}/v1`, apiKey, includeUsage: true, ...options });
const key = await user();
const provider = providerOf(URL_, key);
const model = provider("llama3.2");

async function textAndStream() {
  const plain = await generateText({ model, prompt: "hello" });
  assert.ok(plain.text && plain.usage.outputTokens > 0 && plain.finishReason === "stop");
  const stream = streamText({ model, prompt: "hello" });
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, plain.text);
  assert.equal((await stream.usage).outputTokens, plain.usage.outputTokens);
  const short = await generateText({ model, prompt: "[[n=90]]", maxOutputTokens: 3 });
  assert.equal(short.finishReason, "length");
}

async function tools() {
  const weather = tool({ description: "The weather of a city.", inputSchema: z.object({ city: z.string() }) });
  const called = await generateText({ model, prompt: "What is the weather?", tools: { weather } });
  assert.equal(called.finishReason, "tool-calls");
  assert.equal(called.toolCalls[0].toolName, "weather");
  const stream = streamText({ model, prompt: "What is the weather?", tools: { weather } });
  assert.equal((await stream.toolCalls)[0].toolName, "weather");
}

async function objects() {
  const structured = providerOf(URL_, key, { supportsStructuredOutputs: true })("llama3.2");
  const schema = z.object({ name: z.string(), age: z.number() });
  const { object } = await generateObject({ model: structured, schema, prompt: "who?" });
  assert.equal(typeof object.age, "number");
}

async function embeddings() {
  const { embeddings } = await embedMany({ model: provider.embeddingModel("all-minilm"), values: ["one", "two"] });
  assert.ok(embeddings.length === 2 && embeddings[0].length > 0);
}

async function errorsAndRetries() {
  const missing = await thrown(() => generateText({ model: provider("nothere"), prompt: "hi" }));
  assert.ok(missing.statusCode === 404 && missing.message.includes("nothere"), missing.message);
  const wrong = await thrown(() => generateText({ model: providerOf(URL_, "sk-wrong")("llama3.2"), prompt: "hi" }));
  assert.ok(wrong.statusCode === 401 && wrong.message.startsWith("Incorrect API key"), wrong.message);
  const limited = await user({ tokens_per_day: 10_000 });
  await whileTokensAreHeld(limited, async () => {
    const asked = { model: providerOf(URL_, limited)("llama3.2"), prompt: "hi", maxOutputTokens: 2000 };
    const refused = await thrown(() => generateText(asked));
    assert.equal(refused.lastError.statusCode, 429);
    assert.deepEqual(await statusesOnce(limited, 3), ["refused", "refused", "refused"], "three attempts");
  });
}

async function waitsAndBreaks() {
  const faulty = providerOf(FAULTY_URL, await user({}, FAULTY_URL));
  const read = async (name) => {
    const [parts, errors] = [[], []];
    const stream = streamText({ model: faulty(name), prompt: "hi", onError: () => {} });
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") parts.push(part.text);
      if (part.type === "error") errors.push(part.error);
    }
    return [parts.join(""), errors];
  };
  assert.deepEqual(await read("waits"), [WAITED, []]);
  const [text, errors] = await read("breaks");
  assert.equal(text, "one two three");
  assert.ok(errors.length === 1 && JSON.stringify(errors[0]?.message ?? errors[0]).includes("incomplete"), String(errors));
}

await textAndStream();
await tools();
await objects();
await embeddings();
await errorsAndRetries();
await waitsAndBreaks();
passed("@ai-sdk/openai-compatible");
passed("ai");
