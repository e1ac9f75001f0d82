// What goes on right now? One stream of events, made by the gateway once for all who watch; none while the tab is hidden.
import { address } from "./api.js";
import { useEffect, useState } from "./html.js";

/** Without an event for so long, what is shown may be old. */
const STALE_MS = 5000;
const RETRY_MS = [500, 1000, 2000, 5000];
const CHANGES = 10;

/** Follows the stream and calls `show(state)`; returns how to stop. */
export function follow(show) {
  let state = { nodes: null, stale: false, changes: [] };
  let source = null;
  let retry = null;
  let failures = 0;
  let last = Date.now();
  const set = (more) => {
    state = { ...state, ...more };
    show(state);
  };
  const heard = (more) => {
    last = Date.now();
    failures = 0;
    set({ ...more, stale: false, heardAt: last });
  };
  const open = () => {
    close();
    source = new EventSource(address("admin/events"));
    source.addEventListener("snapshot", (event) => heard(snapshot(JSON.parse(event.data))));
    source.addEventListener("tick", (event) => heard(JSON.parse(event.data)));
    source.addEventListener("change", (event) => heard({ changes: [JSON.parse(event.data), ...state.changes].slice(0, CHANGES) }));
    source.addEventListener("error", () => {
      set({ stale: true });
      // The browser tries again by itself after a cut, but not after an answer that is an error.
      if (source.readyState !== EventSource.CLOSED) return;
      retry = setTimeout(open, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
    });
  };
  const close = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
  };
  const look = () => (document.hidden ? close() : open());
  const watch = setInterval(() => {
    if (!document.hidden && !state.stale && Date.now() - last > STALE_MS) set({ stale: true });
  }, 1000);
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    clearInterval(watch);
    close();
  };
}

/** The newest changes come first here. */
const snapshot = (event) => ({ ...event, changes: event.changes.slice(-CHANGES).reverse() });

export function useLive() {
  const [state, set] = useState({ nodes: null, changes: [] });
  useEffect(() => follow(set), []);
  return state;
}
