// How does a page load what it shows, and say that it loads or failed?
import { html, useEffect, useState } from "./html.js";
import { Failure } from "./parts.js";
import { say } from "./strings.js";

/** Calls `load(signal)` now and whenever `deps` change; `reload` calls it again, and what is shown stays until then. */
export function useLoad(load, deps) {
  const [state, set] = useState({});
  const [turn, again] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    load(abort.signal).then(
      (data) => abort.signal.aborted || set({ data }),
      (error) => abort.signal.aborted || set((old) => ({ ...old, error })),
    );
    return () => abort.abort();
  }, [...deps, turn]);
  return { ...state, reload: () => again((turn) => turn + 1) };
}

/** What was loaded, or why not, or that it is on its way. */
export function Loaded({ of, children }) {
  if (of.error) return html`<${Failure} error=${of.error} again=${of.reload} />`;
  if (of.data === undefined) return html`<p class="quiet" role="status">${say.loading}</p>`;
  return children(of.data);
}

/** Pages of a list of the gateway's, one after another on request. */
export function useList(load, deps) {
  const [state, set] = useState({ rows: [], next: null });
  const first = useLoad(async (signal) => {
    const page = await load(null, signal);
    set({ rows: page.data, next: page.next ?? null });
    return true;
  }, deps);
  const more = async () => {
    const page = await load(state.next);
    set((old) => ({ rows: [...old.rows, ...page.data], next: page.next ?? null }));
  };
  return { ...first, rows: state.rows, more: state.next === null ? null : more };
}
