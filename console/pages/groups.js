// Which groups are there, and what may each use in all?
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { compact, number } from "../format.js";
import { Loaded, useList } from "../load.js";
import { Confirm, Dialog, Field, Form, More, Table } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { LimitFields, names, whole } from "./limits.js";

export default function Groups() {
  const list = useList((after, signal) => get("admin/groups", { after, limit: 100 }, signal), []);
  const [asked, ask] = useState(null);
  const close = () => ask(null);
  const done = () => {
    close();
    list.reload();
  };
  const columns = [
    [say.groups.id, (group) => group.group_id],
    ...names.map((name) => [say.limits[name], (group) => compact(group[name]), "number"]),
    [say.limits.weight, (group) => number(group.weight), "number"],
    [say.keysOf.models, (group) => (group.allowed_models ? group.allowed_models.join(", ") : say.keysOf.all)],
  ];
  if (may("people")) {
    columns.push([say.action, (group) => html`<span class="actions">
      <button type="button" onClick=${() => ask({ change: group })}>${say.groups.change}<span class="hidden"> ${group.group_id}</span></button>
      <button type="button" class="danger" onClick=${() => ask({ delete: group })}>${say.groups.delete}<span class="hidden"> ${group.group_id}</span></button></span>`]);
  }
  return html`${may("people") && html`<div class="bar-of-tools"><button type="button" class="primary" onClick=${() => ask({ make: true })}>${say.groups.make}</button></div>`}
    <${Loaded} of=${list}>${() => html`
      <${Table} caption=${say.pages.groups} columns=${columns} rows=${list.rows} rowKey=${(group) => group.group_id} empty=${say.groups.none} />
      <${More} list=${list} />`}<//>
    ${asked?.make && html`<${Edit} title=${say.groups.make} close=${close} send=${(body) => call("POST", "admin/groups", { body })} done=${done} />`}
    ${asked?.change && html`<${Edit} title=${say.groups.changeTitle(asked.change.group_id)} group=${asked.change} close=${close} done=${done}
      send=${(body) => call("PATCH", `admin/groups/${part(asked.change.group_id)}`, { body })} />`}
    ${asked?.delete && html`<${Confirm} title=${say.groups.delete} text=${say.groups.deleteText(asked.delete.group_id)} action=${say.groups.delete}
      act=${() => call("DELETE", `admin/groups/${part(asked.delete.group_id)}`).then(list.reload)} close=${close} />`}`;
}

function Edit({ title, group, close, send, done }) {
  const submit = async (data) => {
    const models = data.get("models").split(",").map((name) => name.trim()).filter(Boolean);
    const body = { ...whole(data), weight: Number(data.get("weight")), allowed_models: models.length ? models : null };
    await send(group ? body : { group_id: data.get("group_id").trim(), ...body });
    done();
  };
  return html`<${Dialog} title=${title} close=${close}>
    <${Form} submit=${submit} action=${say.save} cancel=${close}>
      ${!group && html`<${Field} label=${say.groups.id} hint=${say.users.idHint} name="group_id" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" />`}
      <${LimitFields} of=${group} />
      <${Field} label=${say.limits.weight} hint=${say.limits.weightHint} name="weight" type="number" min="0.001" max="1000" step="any" defaultValue=${group?.weight ?? 1} required />
      <${Field} label=${say.keysOf.models} hint=${say.keysOf.modelsHint} name="models" defaultValue=${group?.allowed_models?.join(", ") ?? ""} wide />
    <//><//>`;
}
