// Who runs the service, and what may each of them do? Administrators with keys of their own.
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { local, moment, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Confirm, Dialog, Field, Form, Select, Table } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Rotate, secretOf } from "./keys.js";
import { KeyShown } from "./snippets.js";

const roles = ["viewer", "operator", "admin"].map((role) => [role, say.admins.roles[role]]);
const path = (admin) => `admin/admins/${part(admin.name)}`;

export default function Admins({ session }) {
  const admins = useLoad((signal) => get("admin/admins", {}, signal), []);
  const [asked, ask] = useState({});
  const [made, setMade] = useState(null);
  const close = () => ask({});
  const done = (made) => {
    close();
    if (made.api_key) setMade(made);
    admins.reload();
  };
  const button = (name, admin, kind) => html`<button type="button" class=${kind} onClick=${() => ask({ [name]: admin })}>${say.admins[name]}<span class="hidden"> ${admin.name}</span></button>`;
  const columns = [
    [say.admins.name, (admin) => `${admin.name}${admin.name === session.name ? ` ${say.admins.you}` : ""}`],
    [say.admins.role, (admin) => say.admins.roles[admin.role] ?? admin.role, "words"],
    [say.keysOf.key, secretOf],
    [say.keysOf.made, (admin) => time(admin.created_at)],
    [say.keysOf.ends, (admin) => (admin.expires_at ? time(admin.expires_at) : say.keysOf.never)],
  ];
  if (may("people")) {
    columns.push([say.action, (admin) => html`<span class="actions">${button("change", admin)}${button("rotate", admin)}${button("delete", admin, "danger")}</span>`]);
  }
  return html`<p class="quiet">${say.admins.configured}</p>
    ${may("people") && html`<div class="bar-of-tools"><button type="button" class="primary" onClick=${() => ask({ make: true })}>${say.admins.make}</button></div>`}
    <${Loaded} of=${admins}>${(admins) => html`<${Table} caption=${say.pages.admins} columns=${columns} rows=${admins.data} rowKey=${(admin) => admin.name} empty=${say.admins.none} />`}<//>
    ${asked.make && html`<${Fields} title=${say.admins.make} action=${say.admins.make} admin=${{}} close=${close}
      send=${(name, body) => call("POST", "admin/admins", { body: { name, ...body } }).then(done)} />`}
    ${asked.change && html`<${Fields} title=${say.admins.changeTitle(asked.change.name)} action=${say.save} admin=${asked.change} close=${close}
      send=${(_, body) => call("PATCH", path(asked.change), { body }).then(done)} />`}
    ${asked.rotate && html`<${Rotate} path=${path(asked.rotate)} name=${asked.rotate.name} text=${say.admins.rotateText} close=${close} shown=${done} />`}
    ${asked.delete && html`<${Confirm} title=${say.admins.deleteTitle(asked.delete.name)} text=${say.admins.deleteText(asked.delete.name)} action=${say.admins.delete}
      act=${() => call("DELETE", path(asked.delete)).then(admins.reload)} close=${close} />`}
    ${made && html`<${KeyShown} title=${say.keysOf.shown(made.name)} secret=${made.api_key} programs=${false} close=${() => setMade(null)} />`}`;
}

/** Asks for a name, unless there is one, a role and an end. */
function Fields({ title, action, admin, send, close }) {
  const submit = (data) => send(data.get("name")?.trim(), { role: data.get("role"), expires_at: moment(data.get("ends")) ?? null });
  return html`<${Dialog} title=${title} close=${close}>
    <${Form} submit=${submit} action=${action} cancel=${close}>
      ${!admin.name && html`<${Field} label=${say.admins.name} hint=${say.users.idHint} name="name" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" />`}
      <${Select} label=${say.admins.role} name="role" value=${admin.role ?? "viewer"} options=${roles} />
      <${Field} label=${say.keysOf.ends} hint=${say.admins.endsHint} name="ends" type="datetime-local" defaultValue=${local(admin.expires_at)} />
    <//><//>`;
}
