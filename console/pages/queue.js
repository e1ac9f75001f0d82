// Who waits, for how long still, and why? And what runs?
import { html } from "../html.js";
import { duration, number } from "../format.js";
import { Count, LongTable } from "../parts.js";
import { link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Whose } from "./slots.js";

export function Queue({ waiting, leftOut, elsewhere, ask }) {
  const columns = [
    [say.queue.position, (request) => number(request.position), "number"],
    [say.user, (request) => html`<${Whose} user=${request.user_id} />`],
    [say.model, (request) => request.model],
    [say.queue.waited, (request) => duration(request.since_ms), "number"],
    [say.queue.expected, (request) => duration(request.expected_ms), "number"],
    [say.queue.why, (request) => html`<a href=${link("requests", [request.request_id])}>${request.summary}</a>`, "words"],
  ];
  if (may("operate")) columns.push([say.action, (request) => html`<button type="button" onClick=${() => ask({ request })}>${say.stop.action}</button>`]);
  return html`<section aria-labelledby="queue"><h2 id="queue">${say.queue.title} <${Count} of=${waiting.length + leftOut + elsewhere} /></h2>
    ${elsewhere > 0 && html`<p class="quiet">${say.queue.elsewhere(elsewhere)}</p>`}
    <${LongTable} caption=${say.queue.title} columns=${columns} rows=${waiting} rowKey=${(row) => row.request_id} empty=${elsewhere ? say.queue.emptyHere : say.queue.empty} />
  </section>`;
}

/** What runs, where, and how far it is. */
export function Running({ running, leftOut, elsewhere, ask }) {
  const columns = [
    [say.user, (request) => html`<${Whose} user=${request.user_id} />`],
    [say.model, (request) => request.model],
    [say.node.title, (request) => request.node],
    [say.running.since, (request) => duration(request.since_ms), "number"],
    [say.running.tokens, (request) => number(request.completion_tokens), "number"],
    [say.running.state, (request) => html`<a href=${link("requests", [request.request_id])}>${request.summary}</a>`, "words"],
  ];
  if (may("operate")) columns.push([say.action, (request) => html`<button type="button" onClick=${() => ask({ request })}>${say.stop.action}</button>`]);
  return html`<section aria-labelledby="running"><h2 id="running">${say.running.title} <${Count} of=${running.length + leftOut + elsewhere} /></h2>
    ${elsewhere > 0 && html`<p class="quiet">${say.running.elsewhere(elsewhere)}</p>`}
    <${LongTable} caption=${say.running.title} columns=${columns} rows=${running} rowKey=${(row) => row.request_id} empty=${elsewhere ? say.running.emptyHere : say.running.empty} />
  </section>`;
}
