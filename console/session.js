// Who is signed in, and what may they do?
import { call, get } from "./api.js";

// Nobody before the first answer.
let session = null;

/** Signs in with a key, which is sent once and kept nowhere. */
export async function signIn(key) {
  session = await call("POST", "console/session", { body: { api_key: key } });
  return session;
}

/** The session of the browser's cookie, or null. */
export async function resume() {
  try {
    session = await get("console/session");
  } catch (error) {
    if (error.status !== 401) throw error;
    session = null;
  }
  return session;
}

/** Ends the session on the server. */
export async function signOut() {
  await call("DELETE", "console/session");
  session = null;
}

export function forget() {
  session = null;
}

/** Operators look after nodes, models and requests; only admins after people and keys. */
export function may(what) {
  if (session?.kind !== "admin") return false;
  return session.role === "admin" || (session.role === "operator" && what === "operate");
}
