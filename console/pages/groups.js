// Which groups are there, and what do their users use together? One of them with its limits and its users.
import { html, useState } from "../html.js";
import { call, get } from "../api.js";
import { compact, number } from "../format.js";
import { Loaded, useList } from "../load.js";
import { Dialog, Field, Form, More, Table } from "../parts.js";
import { go, link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { GroupFields, groupOf, OneGroup } from "./group.js";

export default function Groups({ route }) {
  if (route.rest.length) return html`<${OneGroup} key=${route.rest[0]} id=${route.rest[0]} />`;
  return html`<${List} query=${route.query} />`;
}

function List({ query: { search = "" } }) {
  const list = useList((after, signal) => get("admin/groups", { search, after, limit: 100 }, signal), [search]);
  const [makes, setMakes] = useState(false);
  const find = (event) => {
    event.preventDefault();
    go("groups", [], { search: new FormData(event.currentTarget).get("search").trim() });
  };
  const make = async (data) => {
    const { group_id: id } = await call("POST", "admin/groups", { body: { group_id: data.get("group_id").trim(), ...groupOf(data) } });
    go("groups", [id]);
  };
  return html`<form class="bar-of-tools" role="search" onSubmit=${find}>
      <${Field} label=${say.users.find} name="search" type="search" defaultValue=${search} maxlength="128" data-search />
      <button>${say.search}</button>
      ${may("people") && html`<button type="button" class="primary" onClick=${() => setMakes(true)}>${say.groups.make}</button>`}
    </form>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.groups} columns=${columns} rows=${list.rows} rowKey=${(group) => group.group_id} empty=${say.groups.none} />
      <${More} list=${list} />`}<//>
    ${makes && html`<${Dialog} title=${say.groups.make} close=${() => setMakes(false)}>
      <${Form} submit=${make} action=${say.groups.make} cancel=${() => setMakes(false)}>
        <${Field} label=${say.groups.id} hint=${say.users.idHint} name="group_id" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" wide />
        <${GroupFields} />
      <//><//>`}`;
}

const used = (tokens, limit) => (limit === null ? compact(tokens) : `${compact(tokens)} / ${compact(limit)}`);
const columns = [
  [say.users.group, (group) => html`<a href=${link("groups", [group.group_id])}>${group.group_id}</a>`],
  [say.pages.users, (group) => number(group.user_count), "number"],
  [say.limits.weight, (group) => number(group.weight), "number"],
  [say.users.today, (group) => used(group.tokens_today, group.tokens_per_day), "number"],
  [say.users.month, (group) => used(group.tokens_this_month, group.tokens_per_month), "number"],
  [say.keysOf.models, (group) => group.allowed_models?.join(", ") ?? say.keysOf.all],
];
