// Who changed what, and when? The audit log, newest first.
import { html } from "../html.js";
import { address, get } from "../api.js";
import { time } from "../format.js";
import { Loaded, useList } from "../load.js";
import { More, Table } from "../parts.js";
import { say } from "../strings.js";

export default function Changes() {
  const list = useList((after, signal) => get("admin/audit", { after, limit: 50 }, signal), []);
  return html`<div class="bar-of-tools"><a class="button" href=${address("admin/audit", { format: "csv" })} download="changes.csv">${say.usage.file}</a></div>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.changes} columns=${columns} rows=${list.rows} empty=${say.changes.none} />
      <${More} list=${list} />`}<//>`;
}

const columns = [
  [say.requests.when, (row) => time(row.created_at)],
  [say.changes.who, (row) => row.admin],
  [say.changes.what, (row) => row.action],
  [say.changes.target, (row) => row.target],
  [say.changes.change, (row) => html`<${Difference} before=${row.before} after=${row.after} />`, "words"],
];

/** The fields that differ, before and after. */
function Difference({ before, after }) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const changed = names.filter((name) => text(before?.[name]) !== text(after?.[name]));
  if (!changed.length) return say.none;
  return html`<ul class="plain">${changed.map((name) => html`<li key=${name}><code>${name}</code>:
    ${[before, after].filter(Boolean).map((side) => text(side[name])).join(" → ")}</li>`)}</ul>`;
}

const text = (value) => (value === undefined ? say.none : typeof value === "string" ? value : JSON.stringify(value));
