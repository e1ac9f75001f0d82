// Which requests have ended, and how? Searched by who, what, where and when; one of them in full.
import { html } from "../html.js";
import { get } from "../api.js";
import { duration, moment, number, time } from "../format.js";
import { useList, Loaded } from "../load.js";
import { Field, More, Select, Status, Table } from "../parts.js";
import { go, link } from "../router.js";
import { say } from "../strings.js";
import { Whose } from "./slots.js";
import { Story } from "./story.js";

const statuses = ["completed", "cancelled", "upstream_error", "deadline", "refused", "interrupted"];
const fields = ["user", "model", "node", "status", "code", "from", "to"];

export default function Requests({ route }) {
  if (route.rest.length) return html`<${Story} key=${route.rest[0]} id=${route.rest[0]} />`;
  return html`<${Search} query=${route.query} />`;
}

function Search({ query }) {
  const list = useList((after, signal) => get("admin/requests", { ...wanted(query), limit: 50, after }, signal), [JSON.stringify(query)]);
  const search = (event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    const id = data.get("id").trim();
    if (id) return go("requests", [id]);
    go("requests", [], Object.fromEntries(fields.map((name) => [name, data.get(name).trim()])));
  };
  return html`<form class="filters" role="search" onSubmit=${search}>
      <${Field} label=${say.user} name="user" defaultValue=${query.user ?? ""} data-search />
      <${Field} label=${say.model} name="model" defaultValue=${query.model ?? ""} />
      <${Field} label=${say.node.title} name="node" defaultValue=${query.node ?? ""} />
      <${Select} label=${say.requests.status} name="status" value=${query.status ?? ""} options=${[["", say.any], ...statuses.map((status) => [status, say.statuses[status]])]} />
      <${Field} label=${say.requests.code} name="code" defaultValue=${query.code ?? ""} />
      <${Field} label=${say.requests.from} name="from" type="datetime-local" defaultValue=${query.from ?? ""} />
      <${Field} label=${say.requests.to} name="to" type="datetime-local" defaultValue=${query.to ?? ""} />
      <${Field} label=${say.requests.id} name="id" />
      <button class="primary">${say.search}</button>
    </form>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.requests} columns=${columns} rows=${list.rows} rowKey=${(row) => row.request_id} empty=${say.requests.none} />
      <${More} list=${list} />`}<//>`;
}

/** The form has local times, the gateway wants moments. */
function wanted(query) {
  return { ...query, from: moment(query.from), to: moment(query.to) };
}

const columns = [
  [say.requests.when, (row) => html`<a href=${link("requests", [row.request_id])}>${time(row.created_at)}</a>`],
  [say.user, (row) => html`<${Whose} user=${row.user_id} />`],
  [say.model, (row) => row.model],
  [say.node.title, (row) => row.node ?? say.none],
  [say.requests.status, (row) => html`<${Status} row=${row} />`],
  [say.requests.code, (row) => [row.code, row.limit].filter(Boolean).join(" · ")],
  [say.requests.tokens, (row) => number(row.total_tokens), "number"],
  [say.queue.waited, (row) => duration(row.queue_ms), "number"],
  [say.requests.took, (row) => duration(row.duration_ms), "number"],
];
