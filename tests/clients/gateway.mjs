// What the JavaScript client programs share: the two gateways, users of them, and what the gateway wrote down.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A demo: three simulated nodes. */
export const URL_ = process.env.GATEWAY_URL;
/** One over node.py: its model `waits` is silent for long, and `breaks` dies on the way. */
export const FAULTY_URL = process.env.FAULTY_GATEWAY_URL;
/** What the model `waits` says in the end. */
export const WAITED = "worth the wait";

export const WEATHER = {
  name: "weather",
  description: "The weather of a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function request(url, key, body) {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const method = body ? "POST" : "GET";
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  assert.ok(response.ok, text);
  return JSON.parse(text);
}

/** Makes a user with these limits and no others; the key. */
export async function user(limits = {}, url = URL_) {
  const id = `c-${crypto.randomUUID().slice(0, 13)}`;
  const body = { user_id: id, requests_per_minute: null, tokens_per_day: null, ...limits };
  return (await request(`${url}/admin/users`, process.env.ADMIN_API_KEY, body)).api_key;
}

/** How the user's requests ended, once there are so many; rows are written behind the answer. */
export async function statusesOnce(key, count) {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const { data } = await request(`${URL_}/v1/usage?limit=1000`, key);
    if (data.length >= count || Date.now() > deadline) {
      assert.equal(data.length, count, JSON.stringify(data));
      return data.map((row) => row.status).sort();
    }
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** The user's usage rows, once something was written; every request must have been completed. */
export async function completedOnce(key) {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const { data } = await request(`${URL_}/v1/usage?limit=1000`, key);
    if (data.length > 0 || Date.now() > deadline) {
      assert.ok(data.length > 0, "nothing was written down");
      assert.ok(data.every((row) => row.status === "completed" && row.completion_tokens > 0), JSON.stringify(data));
      return data;
    }
    await new Promise((done) => setTimeout(done, 20));
  }
}

/**
 * Runs a program of this client's packages in an empty home, with these variables and none of the caller's, and kills it
 * after `seconds`; its exit code and what it printed. `prepare` gets the home first.
 */
export async function run(program, args, env = {}, { prepare = async () => {}, seconds = 60 } = {}) {
  const home = await mkdtemp(join(tmpdir(), "gateway-client-"));
  try {
    await prepare(home);
    const { PATH } = process.env;
    const child = spawn(join(import.meta.dirname, "node_modules", program), args, {
      cwd: home,
      env: { PATH, HOME: home, NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: seconds * 1000,
      killSignal: "SIGKILL",
    });
    const said = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"]) child[stream].on("data", (data) => (said[stream] += data));
    const code = await new Promise((done, failed) => child.on("error", failed).on("close", done));
    return { code, ...said, all: said.stdout + said.stderr };
  } finally {
    await rm(home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** What a program printed as lines of JSON; other lines are left out. */
export function objects(stdout) {
  return stdout.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

/** Runs `during` while a running stream of the user holds 9000 tokens. */
export async function whileTokensAreHeld(key, during) {
  const leaving = new AbortController();
  const response = await fetch(`${URL_}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}` },
    signal: leaving.signal,
    body: JSON.stringify({
      model: "llama3.2",
      stream: true,
      max_tokens: 8900,
      messages: [{ role: "user", content: "[[n=8000]]" }],
    }),
  });
  // Somebody has to read on, or the gateway gives the client up.
  const reading = response.text().catch(() => {});
  try {
    return await during();
  } finally {
    leaving.abort();
    await reading;
  }
}

/** What is thrown, which must be something. */
export async function thrown(doing) {
  try {
    await doing();
  } catch (error) {
    return error;
  }
  assert.fail("nothing was thrown");
}

export function passed(name, from = import.meta.url) {
  // Not through the package's own exports, which may hide it.
  const path = `./node_modules/${name}/package.json`;
  console.log(`PASS ${name} ${createRequire(from)(path).version}`);
}
