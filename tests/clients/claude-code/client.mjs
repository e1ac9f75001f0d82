// Claude Code, as it prints: `claude -p`.
import assert from "node:assert/strict";
import { FAULTY_URL, URL_, completedOnce, objects, passed, run, user } from "./gateway.mjs";

// Its own program starts only where an install script was allowed to run.
const PROGRAM = `@anthropic-ai/claude-code-${process.platform}-${process.arch}/claude`;

/** What it says to this, with this credential. */
function claude(args, credential, model = "llama3.2") {
  return run(PROGRAM, args, {
    ANTHROPIC_BASE_URL: URL_,
    ANTHROPIC_MODEL: model,
    ANTHROPIC_DEFAULT_HAIKU_MODEL: model,
    CLAUDE_CODE_MAX_CONTEXT_TOKENS: "32768",
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
    ...credential,
  });
}

async function answers() {
  for (const name of ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"]) {
    const key = await user();
    const { code, stdout, all } = await claude(["-p", "hello", "--output-format", "json"], { [name]: key });
    assert.equal(code, 0, all);
    const [{ result, usage }] = objects(stdout);
    assert.ok(result.length > 0, stdout);
    const [row] = await completedOnce(key);
    assert.deepEqual([row.endpoint, row.prompt_tokens, row.completion_tokens],
      ["/v1/messages", usage.input_tokens, usage.output_tokens]);
  }
}

async function streams() {
  const key = await user();
  const args = ["-p", "hello", "--output-format", "stream-json", "--verbose", "--include-partial-messages"];
  const { stdout } = await claude(args, { ANTHROPIC_AUTH_TOKEN: key });
  const said = objects(stdout);
  const pieces = said.filter((line) => line.event?.delta?.type === "text_delta").map((line) => line.event.delta.text);
  assert.ok(pieces.length > 1, stdout);
  assert.equal(pieces.join(""), said.at(-1).result);
}

async function counts() {
  const key = await user();
  const { code, stdout } = await claude(["-p", "/context"], { ANTHROPIC_AUTH_TOKEN: key });
  assert.equal(code, 0);
  assert.match(stdout, /Tokens:.* \/ 32\.?8?k/);
  await claude(["-p", "hello"], { ANTHROPIC_AUTH_TOKEN: key });
  assert.equal((await completedOnce(key)).length, 1, "what a context takes is estimated, and makes no node work");
}

async function errors() {
  const began = Date.now();
  const wrong = await claude(["-p", "hello"], { ANTHROPIC_BASE_URL: FAULTY_URL, ANTHROPIC_AUTH_TOKEN: "sk-wrong" });
  assert.notEqual(wrong.code, 0);
  assert.ok(wrong.all.includes("Incorrect API key"), wrong.all);
  assert.ok(Date.now() - began < 15_000, "it does not try again");
  const missing = await claude(["-p", "hello"], { ANTHROPIC_AUTH_TOKEN: await user() }, "nothere");
  assert.notEqual(missing.code, 0);
  assert.ok(missing.all.includes("nothere"), missing.all);
}

await answers();
await streams();
await counts();
await errors();
passed("@anthropic-ai/claude-code");
