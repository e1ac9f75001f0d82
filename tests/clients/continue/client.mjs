// Continue's command line, as it answers one prompt: `cn -p`, over its providers for OpenAI's API and for Ollama.
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FAULTY_URL, URL_, completedOnce, passed, run, user } from "./gateway.mjs";

function cn(model) {
  const config = { name: "gateway", version: "1.0.0", schema: "v1", models: [{ name: "it", roles: ["chat"], ...model }] };
  // JSON is YAML, too.
  const prepare = (home) => writeFile(join(home, "config.yaml"), JSON.stringify(config));
  return run(".bin/cn", ["--config", "config.yaml", "-p", "hello"], { CONTINUE_TELEMETRY_ENABLED: "0" }, { prepare });
}

async function answers() {
  const keys = [await user(), await user(), await user()];
  const models = [
    { provider: "openai", apiBase: `${URL_}/v1`, apiKey: keys[0] },
    { provider: "ollama", apiBase: URL_, apiKey: keys[1] },
    // Without a key of its own it sends `Bearer` with nothing behind it.
    { provider: "ollama", apiBase: `${URL_}/k/${keys[2]}` },
  ];
  for (const [at, model] of models.entries()) {
    const { code, stdout, all } = await cn({ model: "llama3.2", ...model });
    assert.equal(code, 0, all);
    assert.ok(stdout.trim().length > 0, all);
    assert.ok((await completedOnce(keys[at])).every((row) => row.prompt_tokens > 0));
  }
}

async function errors() {
  const wrong = await cn({ provider: "openai", apiBase: `${FAULTY_URL}/v1`, model: "llama3.2", apiKey: "sk-wrong" });
  assert.notEqual(wrong.code, 0);
  assert.ok(wrong.all.includes("Incorrect API key"), wrong.all);
  const missing = await cn({ provider: "openai", apiBase: `${URL_}/v1`, model: "nothere", apiKey: await user() });
  assert.ok(missing.all.includes("`nothere` does not exist here"), missing.all);
}

await answers();
await errors();
passed("@continuedev/cli");
