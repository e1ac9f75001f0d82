// Qwen Code, as it answers one prompt: `qwen -p`.
import assert from "node:assert/strict";
import { FAULTY_URL, URL_, completedOnce, objects, passed, run, user } from "./gateway.mjs";

function qwen(args, key, { model = "llama3.2", url = URL_ } = {}) {
  return run(".bin/qwen", ["--auth-type", "openai", "-p", "hello", ...args], {
    OPENAI_BASE_URL: `${url}/v1`, OPENAI_API_KEY: key, OPENAI_MODEL: model,
  });
}

async function answers() {
  const key = await user();
  const { code, stdout, all } = await qwen([], key);
  assert.equal(code, 0, all);
  assert.ok(stdout.trim().length > 0, all);
  assert.ok((await completedOnce(key)).every((row) => row.endpoint === "/v1/chat/completions" && row.prompt_tokens > 0));
}

async function streams() {
  const { stdout } = await qwen(["-o", "stream-json", "--include-partial-messages"], await user());
  const pieces = objects(stdout).filter((line) => line.event?.delta?.type === "text_delta");
  assert.ok(pieces.length > 1, stdout);
}

async function errors() {
  const wrong = await qwen([], "sk-wrong", { url: FAULTY_URL });
  assert.ok(wrong.all.includes("401 Incorrect API key"), wrong.all);
  const missing = await qwen([], await user(), { model: "nothere" });
  assert.ok(missing.all.includes("`nothere` does not exist here"), missing.all);
}

await answers();
await streams();
await errors();
passed("@qwen-code/qwen-code");
