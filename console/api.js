// How does the page talk to the gateway? Relative to where its own files came from, so that a path prefix does no harm.
import { say } from "./strings.js";

// This file is BASE/console/DIGEST/api.js.
const BASE = new URL("../../", import.meta.url);

/** An answer of the gateway that is an error; `status` 0 where there was no answer. */
export class ApiError extends Error {
  constructor(status, { message, code = null, param = null } = {}) {
    super(message || say.error.status(status));
    Object.assign(this, { status, code, param });
  }
}

let signedOut = () => {};

/** Who is told when the session has ended on the server. */
export function onSignedOut(listener) {
  signedOut = listener;
}

/** The address of a route, with the parts of a path already encoded. */
export function address(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url.href;
}

/** The address that clients are given, without a slash at its end. */
export const serviceUrl = BASE.href.replace(/\/$/, "");

async function send(method, path, { query, body, signal } = {}) {
  const headers = {};
  if (method !== "GET") headers["x-console"] = "1";
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method, headers, signal, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(address(path, query), options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, { message: say.error.unreachable });
  }
  if (response.ok) return response;
  const error = await response.json().then((answer) => answer, () => ({}));
  if (response.status === 401 && path !== "console/session") signedOut();
  // An action on several nodes says of each one what went wrong.
  const failed = (error.nodes || []).filter((node) => node.error).map((node) => `${node.node}: ${node.error}`);
  const said = typeof error.error === "object" && error.error ? error.error : {};
  throw new ApiError(response.status, failed.length ? { message: failed.join("; ") } : said);
}

/** Calls a route, and returns its JSON. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, query, signal) => call("GET", path, { query, signal });

/** Calls a route that answers with server-sent events, and hands over the data of each. */
export async function events(method, path, { body, signal, onData }) {
  const response = await send(method, path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6).trim();
      if (data !== "[DONE]") onData(JSON.parse(data));
    }
  }
}

/** A part of a path: user ids and model names may hold anything. */
export const part = encodeURIComponent;
