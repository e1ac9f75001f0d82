// Who may use the service, and how much of it do they use?
import { html, useState } from "../html.js";
import { call, get } from "../api.js";
import { compact, number, since } from "../format.js";
import { Loaded, useList } from "../load.js";
import { Badge, Dialog, Field, Form, More, Select, Table } from "../parts.js";
import { go, link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { given, LimitFields } from "./limits.js";
import { Whose } from "./slots.js";
import { KeyShown } from "./snippets.js";
import { OneUser } from "./user.js";

const orders = ["user_id", "created_at", "last_seen", "tokens_today", "tokens_this_month"];

export default function Users({ route }) {
  if (route.rest.length) return html`<${OneUser} key=${route.rest[0]} id=${route.rest[0]} />`;
  return html`<${List} query=${route.query} />`;
}

function List({ query: { search = "", sort = "user_id" } }) {
  const list = useList((after, signal) => get("admin/users", { search, sort, after, limit: 100 }, signal), [search, sort]);
  const [makes, setMakes] = useState(false);
  const find = (event) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    go("users", [], { search: data.get("search").trim(), sort: data.get("sort") });
  };
  return html`<form class="bar-of-tools" role="search" onSubmit=${find}>
      <${Field} label=${say.users.find} name="search" type="search" defaultValue=${search} maxlength="128" data-search />
      <${Select} label=${say.users.sort} name="sort" value=${sort} options=${orders.map((order) => [order, say.users.orders[order]])} />
      <button>${say.search}</button>
      ${may("people") && html`<button type="button" class="primary" onClick=${() => setMakes(true)}>${say.users.make}</button>`}
    </form>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.users} columns=${columns} rows=${list.rows} rowKey=${(user) => user.user_id} empty=${say.users.none} />
      <${More} list=${list} />`}<//>
    ${makes && html`<${Make} close=${() => setMakes(false)} done=${list.reload} />`}`;
}

const columns = [
  [say.user, (user) => html`<a href=${link("users", [user.user_id])}><${Whose} user=${user.user_id} /></a>${user.suspended && html` <${Badge} kind="warn">${say.users.suspended}<//>`}`],
  [say.users.name, (user) => user.display_name ?? say.none],
  [say.users.group, (user) => (user.group ? html`<a href=${link("groups", [user.group])}>${user.group}</a>` : say.none)],
  [say.users.keys, (user) => number(user.key_count), "number"],
  [say.users.today, (user) => html`${compact(user.tokens_today)}${user.tokens_per_day === null ? "" : ` / ${compact(user.tokens_per_day)}`}`, "number"],
  [say.users.month, (user) => compact(user.tokens_this_month), "number"],
  [say.users.seen, (user) => since(user.last_seen ?? null)],
];

function Make({ close, done }) {
  const [made, set] = useState(null);
  const make = async (data) => {
    const body = { user_id: data.get("user_id").trim(), ...given(data) };
    if (data.get("group")) body.group = data.get("group").trim();
    set(await call("POST", "admin/users", { body }));
    done();
  };
  if (made) {
    return html`<${KeyShown} title=${say.users.made(made.user_id)} secret=${made.api_key} close=${() => {
      close();
      go("users", [made.user_id]);
    }} />`;
  }
  return html`<${Dialog} title=${say.users.make} close=${close}>
    <${Form} submit=${make} action=${say.users.make} cancel=${close}>
      <${Field} label=${say.users.id} hint=${say.users.idHint} name="user_id" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" wide />
      <${Field} label=${say.users.group} name="group" maxlength="64" />
      <${LimitFields} />
      <small>${say.limits.absent}</small>
    <//><//>`;
}
