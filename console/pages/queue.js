// Who waits, for how long still, and why?
import { html, useState } from "../html.js";
import { duration, number } from "../format.js";
import { Count, Table } from "../parts.js";
import { link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Whose } from "./whose.js";

const SHOWN = 50;

export function Queue({ waiting, leftOut, ask }) {
  const [all, showAll] = useState(false);
  const rows = all ? waiting : waiting.slice(0, SHOWN);
  const columns = [
    [say.queue.position, (request) => number(request.position), "number"],
    [say.user, (request) => html`<${Whose} user=${request.user_id} />`],
    [say.model, (request) => request.model],
    [say.queue.waited, (request) => duration(request.since_ms), "number"],
    [say.queue.expected, (request) => duration(request.expected_ms), "number"],
    [say.queue.why, (request) => html`<a href=${link("requests", [request.request_id])}>${request.summary}</a>`, "words"],
  ];
  if (may("operate")) columns.push([say.action, (request) => html`<button type="button" onClick=${() => ask({ request })}>${say.stop.action}</button>`]);
  return html`<section aria-labelledby="queue"><h2 id="queue">${say.queue.title} <${Count} of=${waiting.length + leftOut} /></h2>
    <${Table} caption=${say.queue.title} columns=${columns} rows=${rows} rowKey=${(row) => row.request_id} empty=${say.queue.empty} />
    ${waiting.length > SHOWN && html`<button type="button" onClick=${() => showAll(!all)}>${all ? say.queue.fewer : say.queue.all(number(waiting.length))}</button>`}
  </section>`;
}
