// Codex, as it runs one task: `codex exec`, over a provider of its own and as `--oss`.
import assert from "node:assert/strict";
import { FAULTY_URL, URL_, completedOnce, objects, passed, run, user } from "./gateway.mjs";

const EXEC = ["exec", "--skip-git-repo-check", "--sandbox", "read-only", "--json"];

/** The arguments for a provider of its own. */
function settings(model, url = URL_) {
  const values = { name: "gateway", base_url: `${url}/v1`, env_key: "GATEWAY_KEY", wire_api: "responses", stream_max_retries: 1 };
  const provider = Object.entries(values).map(([name, value]) => `model_providers.gateway.${name}=${JSON.stringify(value)}`);
  return ["model_provider=gateway", `model=${model}`, "model_context_window=32768", ...provider].flatMap((set) => ["-c", set]);
}

async function answers() {
  const key = await user();
  const { code, stdout, all } = await run(".bin/codex", [...EXEC, ...settings("llama3.2"), "hello"], { GATEWAY_KEY: key });
  assert.equal(code, 0, all);
  await check(key, stdout);
}

async function answersAsOss() {
  const key = await user();
  const args = [...EXEC, "--oss", "--local-provider", "ollama", "-m", "llama3.2:latest", "hello"];
  const { code, stdout, all } = await run(".bin/codex", args, { CODEX_OSS_BASE_URL: `${URL_}/k/${key}/v1` });
  assert.equal(code, 0, all);
  await check(key, stdout);
}

async function check(key, stdout) {
  const said = objects(stdout);
  assert.ok(said.some(({ item }) => item?.type === "agent_message" && item.text.length > 0), stdout);
  const { usage } = said.find(({ type }) => type === "turn.completed");
  const rows = await completedOnce(key);
  assert.ok(rows.every((row) => row.endpoint === "/v1/responses"), JSON.stringify(rows));
  const sum = (name) => rows.reduce((total, row) => total + row[name], 0);
  assert.deepEqual([sum("prompt_tokens"), sum("completion_tokens")], [usage.input_tokens, usage.output_tokens]);
}

async function errors() {
  const wrong = await run(".bin/codex", [...EXEC, ...settings("llama3.2", FAULTY_URL), "hello"], { GATEWAY_KEY: "sk-wrong" });
  assert.notEqual(wrong.code, 0);
  assert.ok(wrong.all.includes("Incorrect API key"), wrong.all);
  const missing = await run(".bin/codex", [...EXEC, ...settings("nothere"), "hello"], { GATEWAY_KEY: await user() });
  assert.notEqual(missing.code, 0);
  assert.ok(missing.all.includes("`nothere` does not exist here"), missing.all);
}

await answers();
await answersAsOss();
await errors();
passed("@openai/codex");
