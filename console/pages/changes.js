// Which administrator did what, and what did it change? The audit log, the newest first, searched and as a file.
import { html } from "../html.js";
import { address, get } from "../api.js";
import { moment, time } from "../format.js";
import { Loaded, useList } from "../load.js";
import { Badge, Field, More, Select, Table } from "../parts.js";
import { go } from "../router.js";
import { say } from "../strings.js";

const methods = ["POST", "PUT", "PATCH", "DELETE"];
const fields = ["admin", "target", "method", "route", "from", "to"];

export default function Changes({ route: { query } }) {
  const filters = { ...query, from: moment(query.from), to: moment(query.to) };
  const list = useList((after, signal) => get("admin/audit", { ...filters, after, limit: 50 }, signal), [JSON.stringify(query)]);
  const search = (event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    go("changes", [], Object.fromEntries(fields.map((name) => [name, data.get(name).trim()])));
  };
  const file = address("admin/audit", { ...filters, format: "csv" });
  return html`<form class="filters" role="search" onSubmit=${search}>
      <${Field} label=${say.changes.who} name="admin" defaultValue=${query.admin ?? ""} data-search />
      <${Field} label=${say.changes.target} name="target" defaultValue=${query.target ?? ""} />
      <${Select} label=${say.changes.method} name="method" value=${query.method ?? ""} options=${[["", say.any], ...methods.map((method) => [method, method])]} />
      <${Field} label=${say.changes.route} name="route" defaultValue=${query.route ?? ""} />
      <${Field} label=${say.requests.from} name="from" type="datetime-local" defaultValue=${query.from ?? ""} />
      <${Field} label=${say.requests.to} name="to" type="datetime-local" defaultValue=${query.to ?? ""} />
      <button class="primary">${say.search}</button>
      <a class="button" href=${file} download="changes.csv">${say.usage.file}</a>
    </form>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.changes} columns=${columns} rows=${list.rows} rowKey=${(row) => row.seq} empty=${say.changes.none} />
      <${More} list=${list} />`}<//>`;
}

const columns = [
  [say.changes.when, (row) => time(row.at)],
  [say.changes.who, (row) => html`${row.admin}<br /><small>${say.roles[row.role] ?? row.role}</small>`],
  [say.changes.what, (row) => html`<code>${row.method} ${row.route}</code>`],
  [say.changes.target, (row) => row.target || say.none],
  [say.changes.change, (row) => html`<${Difference} before=${row.before} after=${row.after} />`, "words"],
  [say.changes.status, (row) => html`<${Outcome} status=${row.status} />`],
];

function Outcome({ status }) {
  if (status === null) return html`<${Badge} kind="warn">${say.changes.begun}<//>`;
  return html`<${Badge} kind=${status < 400 ? "good" : "bad"}>${say.changes.outcome(status)}<//>`;
}

/** The fields that differ, before and after. Where there was nothing before or is nothing after, only one of the two is said. */
function Difference({ before, after }) {
  const [old, now] = [parts(before), parts(after)];
  const names = [...new Set([...Object.keys(old), ...Object.keys(now)])];
  const changed = names.filter((name) => text(old[name]) !== text(now[name]));
  if (!changed.length) return say.none;
  return html`<ul>${changed.map((name) => html`<li key=${name}>${name && html`<code>${name}</code>: `}${say.changes.step(before && text(old[name]), after && text(now[name]))}</li>`)}</ul>`;
}

/** By the path of each field; whatever has none is one without a name. */
function parts(value, path = "", found = {}) {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  if (isObject) for (const [name, member] of Object.entries(value)) parts(member, path ? `${path}.${name}` : name, found);
  else if (value !== null && value !== undefined) found[path] = value;
  return found;
}

const text = (value) => (value === undefined || value === null ? say.none : typeof value === "string" ? value : JSON.stringify(value));
