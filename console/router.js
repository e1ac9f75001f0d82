// Which page is shown? The part of the address behind `#`, so that the server has one page and a prefix does no harm.
import { useEffect, useState } from "./html.js";

/** `#/requests?user=a` as a page, the rest of its path, and its query. */
export function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, ...rest] = path.split("/").map(decode);
  return { page, rest, query: Object.fromEntries(new URLSearchParams(query)) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The link to a page. */
export function link(page, rest = [], query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return `#/${[page, ...rest].map(encodeURIComponent).join("/")}${search}`;
}

export function go(...to) {
  location.hash = link(...to);
}

/** The route, followed as it changes. */
export function useRoute() {
  const [now, set] = useState(route);
  useEffect(() => {
    const follow = () => set(route());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return now;
}
