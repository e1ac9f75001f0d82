// What became of one request, and why? A sentence, a time line, and what else the scheduler weighed up.
import { html } from "../html.js";
import { get, part } from "../api.js";
import { decimal, duration, number, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Status, Table } from "../parts.js";
import { link } from "../router.js";
import { say } from "../strings.js";

export function Story({ id }) {
  const story = useLoad((signal) => get(`admin/requests/${part(id)}`, {}, signal), [id]);
  return html`<p><a href=${link("requests")}>${say.story.back}</a></p>
    <${Loaded} of=${story}>${(story) => html`
      <h2>${story.user_id} · ${story.model}</h2>
      <p class="verdict">${story.summary}</p>
      <p class="quiet"><code>${story.request_id}</code></p>
      ${story.outcome && html`<${Outcome} row=${story.outcome} />`}
      ${!story.outcome && html`<button type="button" onClick=${() => location.reload()}>${say.again}</button>`}
      <h2>${say.story.steps}</h2>
      ${story.steps.length ? html`<ol class="line">${story.steps.map((step) => html`<${Step} step=${step} />`)}</ol>` : html`<p class="quiet">${say.story.forgotten}</p>`}
    `}<//>`;
}

function Step({ step }) {
  return html`<li>
    <span class="figures">${step.at_ms === 0 ? say.story.arrived : `+ ${duration(step.at_ms)}`}</span>
    <div><p>${say.story.what(step)}</p>
      ${step.options.length > 0 && html`<details><summary>${say.story.weighed(step.options.length)}</summary>
        <${Table} caption=${say.story.weighed(step.options.length)} columns=${columns} rows=${step.options} rowClass=${(option) => (option.node === step.node ? "chosen" : "")} />
      </details>`}
    </div>
  </li>`;
}

const seconds = (value) => `${decimal(value)} s`;
const columns = [
  [say.node.title, (option) => option.node ?? say.story.left],
  [say.story.kind, (option) => say.story.kinds[option.kind] ?? option.kind],
  [say.story.total, (option) => seconds(option.total_seconds), "number"],
  [say.story.wait, (option) => seconds(option.wait_seconds), "number"],
  [say.story.load, (option) => seconds(option.load_seconds), "number"],
  [say.story.regret, (option) => seconds(option.regret_seconds), "number"],
  [say.story.prefill, (option) => seconds(option.prefill_seconds), "number"],
  [say.story.decode, (option) => seconds(option.decode_seconds), "number"],
];

function Outcome({ row }) {
  const pairs = [
    [say.requests.status, html`<${Status} row=${row} />`],
    [say.requests.http, row.http_status],
    [say.requests.code, [row.code, row.limit].filter(Boolean).join(" · ") || null],
    [say.requests.when, time(row.created_at)],
    [say.node.title, row.node],
    [say.queue.waited, duration(row.queue_ms)],
    [say.requests.first, row.time_to_first_token_ms === null ? null : duration(row.time_to_first_token_ms)],
    [say.requests.took, duration(row.duration_ms)],
    [say.requests.prompt, number(row.prompt_tokens)],
    [say.requests.answer, number(row.completion_tokens)],
    [say.requests.endpoint, row.endpoint],
  ].filter(([, value]) => value !== null && value !== undefined);
  return html`<dl class="pairs">${pairs.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}
