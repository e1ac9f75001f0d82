// Who may use the service, and how much of it do they use?
import { html, useState } from "../html.js";
import { call, get } from "../api.js";
import { compact, number, since } from "../format.js";
import { Loaded, useList } from "../load.js";
import { Badge, Dialog, Field, Form, More, Table } from "../parts.js";
import { go, link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { KeyShown } from "./key-shown.js";
import { given, LimitFields } from "./limits.js";
import { OneUser } from "./user.js";
import { Whose } from "./whose.js";

export default function Users({ route }) {
  if (route.rest.length) return html`<${OneUser} key=${route.rest[0]} id=${route.rest[0]} />`;
  return html`<${List} />`;
}

function List() {
  const list = useList((after, signal) => get("admin/users", { after, limit: 100 }, signal), []);
  const [makes, setMakes] = useState(false);
  const [found, find] = useState("");
  const rows = list.rows.filter((user) => user.user_id.toLowerCase().includes(found.toLowerCase()));
  return html`<div class="bar-of-tools">
      <${Field} label=${say.users.filter} name="filter" type="search" value=${found} onInput=${(event) => find(event.currentTarget.value)} data-search />
      ${may("people") && html`<button type="button" class="primary" onClick=${() => setMakes(true)}>${say.users.make}</button>`}
    </div>
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.users} columns=${columns} rows=${rows} rowKey=${(user) => user.user_id} empty=${say.users.none} />
      <${More} list=${list} />`}<//>
    ${makes && html`<${Make} close=${() => setMakes(false)} done=${list.reload} />`}`;
}

const columns = [
  [say.user, (user) => html`<a href=${link("users", [user.user_id])}><${Whose} user=${user.user_id} /></a>${user.suspended && html` <${Badge} kind="warn">${say.users.suspended}<//>`}`],
  [say.users.name, (user) => user.display_name ?? say.none],
  [say.users.group, (user) => user.group ?? say.none],
  [say.limits.requests_per_minute, (user) => number(user.requests_per_minute), "number"],
  [say.limits.tokens_per_day, (user) => compact(user.tokens_per_day), "number"],
  [say.users.seen, (user) => since(user.last_seen ?? null)],
];

function Make({ close, done }) {
  const [made, set] = useState(null);
  const make = async (data) => {
    set(await call("POST", "admin/users", { body: { user_id: data.get("user_id").trim(), ...given(data) } }));
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
      <${LimitFields} />
      <small>${say.limits.absent}</small>
    <//><//>`;
}
