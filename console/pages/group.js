// One group: its limits with what is used of them, and its users.
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { compact, number, time } from "../format.js";
import { Loaded, useList, useLoad } from "../load.js";
import { Confirm, Dialog, Field, Form, More, Table } from "../parts.js";
import { go, link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { LimitFields, modelsOf, names, Standings, whole } from "./limits.js";
import { Whose } from "./slots.js";

export function OneGroup({ id }) {
  const path = `admin/groups/${part(id)}`;
  const group = useLoad((signal) => get(path, {}, signal), [id]);
  const users = useList((after, signal) => get("admin/users", { group: id, after, limit: 100 }, signal), [id]);
  const [asked, ask] = useState(null);
  const close = () => ask(null);
  const done = () => {
    close();
    group.reload();
    users.reload();
  };
  const move = (user, to) => call("PATCH", `admin/users/${part(user)}`, { body: { group: to } }).then(done);
  const columns = [
    [say.user, (user) => html`<a href=${link("users", [user.user_id])}><${Whose} user=${user.user_id} /></a>`],
    [say.users.today, (user) => compact(user.tokens_today), "number"],
    [say.users.month, (user) => compact(user.tokens_this_month), "number"],
  ];
  if (may("people")) {
    columns.push([say.action, (user) => html`<button type="button" onClick=${() => ask({ takes: user.user_id })}>${say.groups.take}<span class="hidden"> ${user.user_id}</span></button>`]);
  }
  return html`<p><a href=${link("groups")}>${say.groups.back}</a></p>
    <${Loaded} of=${group}>${(group) => html`
      <h2>${group.group_id}</h2>
      <${About} group=${group} />
      ${may("people") && html`<div class="actions">
        <button type="button" onClick=${() => ask({ changes: true })}>${say.users.change}</button>
        <button type="button" onClick=${() => ask({ adds: true })}>${say.groups.add}</button>
        <button type="button" class="danger" onClick=${() => ask({ deletes: true })}>${say.groups.delete}</button></div>`}
      <h3>${say.limits.title}</h3>
      ${group.limits.length ? html`<${Standings} limits=${group.limits} />` : html`<p class="quiet">${say.groups.unlimited}</p>`}
      ${asked?.changes && html`<${Dialog} title=${say.groups.changeTitle(id)} close=${close}>
        <${Form} submit=${(data) => call("PATCH", path, { body: groupOf(data) }).then(done)} action=${say.save} cancel=${close}><${GroupFields} of=${group} /><//><//>`}
      ${asked?.deletes && html`<${Confirm} title=${say.groups.deleteTitle(id)} text=${say.groups.deleteText(id)} action=${say.groups.delete}
        act=${() => call("DELETE", path, { query: { members: "release" } })} close=${close} done=${() => go("groups")} />`}`}<//>
    <h3>${say.pages.users}</h3>
    <${Loaded} of=${users}>${() => html`<${Table} caption=${say.pages.users} columns=${columns} rows=${users.rows} rowKey=${(user) => user.user_id} empty=${say.users.none} />
      <${More} list=${users} />`}<//>
    <p><a href=${link("usage", [], { group: id })}>${say.groups.usage}</a></p>
    ${asked?.adds && html`<${Dialog} title=${say.groups.add} close=${close}>
      <${Form} submit=${(data) => move(data.get("user").trim(), id)} action=${say.groups.add} cancel=${close}><p>${say.groups.addText}</p>
        <${Field} label=${say.users.id} name="user" required maxlength="64" /><//><//>`}
    ${asked?.takes && html`<${Confirm} title=${say.groups.take} text=${say.groups.takeText(asked.takes, id)} action=${say.groups.take} act=${() => move(asked.takes, null)} close=${close} />`}`;
}

function About({ group }) {
  const pairs = [
    [say.users.since, time(group.created_at)],
    [say.limits.weight, number(group.weight)],
    [say.keysOf.models, group.allowed_models?.join(", ") ?? say.keysOf.all],
    [say.users.today, number(group.tokens_today)],
    [say.users.month, number(group.tokens_this_month)],
  ];
  return html`<dl class="pairs">${pairs.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

/** What is asked for of a group, in the form that makes one and in the form that changes one. */
export function GroupFields({ of = null }) {
  return html`<${LimitFields} of=${of} only=${[...names, "tokens_per_month"]} />
    <${Field} label=${say.limits.weight} hint=${say.limits.weightHint} name="weight" type="number" min="0.001" max="1000" step="any" defaultValue=${of?.weight ?? 1} required />
    <${Field} label=${say.keysOf.models} hint=${say.keysOf.modelsHint} name="models" defaultValue=${of?.allowed_models?.join(", ") ?? ""} wide />`;
}

/** The form's values: an empty field is no limit, or every model. */
export const groupOf = (data) => ({ ...whole(data), weight: Number(data.get("weight")), allowed_models: modelsOf(data) });
