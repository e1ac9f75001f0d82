// opencode, as it answers one prompt: `opencode run`, over its provider for OpenAI's API.
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FAULTY_URL, URL_, completedOnce, objects, passed, run, user } from "./gateway.mjs";

// Its own program starts only where an install script was allowed to run.
const PROGRAM = `opencode-${process.platform}-${process.arch}/bin/opencode`;

function opencode(key, { model = "llama3.2", url = URL_ } = {}) {
  const config = {
    model: `gateway/${model}`,
    small_model: `gateway/${model}`,
    autoupdate: false,
    provider: {
      gateway: {
        npm: "@ai-sdk/openai-compatible",
        name: "Gateway",
        options: { baseURL: `${url}/v1`, apiKey: key },
        models: { [model]: { name: model, limit: { context: 32768, output: 4096 } } },
      },
    },
  };
  // It would fetch lists and plugins of its makers.
  const apart = { OPENCODE_DISABLE_MODELS_FETCH: "1", OPENCODE_DISABLE_DEFAULT_PLUGINS: "1" };
  const prepare = (home) => writeFile(join(home, "opencode.json"), JSON.stringify(config));
  return run(PROGRAM, ["run", "--format", "json", "hello"], apart, { prepare });
}

async function answers() {
  const key = await user();
  const { stdout, all } = await opencode(key);
  const text = objects(stdout).filter(({ type }) => type === "text").map(({ part }) => part.text).join("");
  assert.ok(text.length > 0, all);
  assert.ok((await completedOnce(key)).every((row) => row.endpoint === "/v1/chat/completions" && row.prompt_tokens > 0));
}

async function errors() {
  const wrong = await opencode("sk-wrong", { url: FAULTY_URL });
  assert.ok(wrong.all.includes("Incorrect API key"), wrong.all);
  const missing = await opencode(await user(), { model: "nothere" });
  assert.ok(missing.all.includes("`nothere` does not exist here"), missing.all);
}

await answers();
await errors();
passed("opencode-ai");
