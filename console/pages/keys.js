// Which keys does a user have, and what is done with them?
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { moment, since, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Confirm, Dialog, Field, Form, Select, Table } from "../parts.js";
import { say } from "../strings.js";
import { modelsOf } from "./limits.js";
import { KeyShown } from "./snippets.js";

/** `base` is the path of the owner, below which `/keys` is, `owner` whose they are; `isOwn`: the owner looks, who cannot rotate. */
export function Keys({ base, owner, writes, isOwn }) {
  const keys = useLoad((signal) => get(`${base}/keys`, {}, signal), [base]);
  const [asked, ask] = useState(null);
  const [made, setMade] = useState(null);
  const close = () => ask(null);
  const shown = (made) => {
    close();
    setMade(made);
    keys.reload();
  };
  const path = (key) => `${base}/keys/${part(key.id)}`;
  const columns = [
    [say.keysOf.name, (key) => key.name],
    [say.keysOf.key, secretOf],
    [say.keysOf.made, (key) => time(key.created_at)],
    [say.keysOf.ends, (key) => (key.expires_at ? time(key.expires_at) : say.keysOf.never)],
    [say.keysOf.used, (key) => (key.last_used_at ? since(key.last_used_at) : say.keysOf.unused)],
    [say.keysOf.models, (key) => (key.allowed_models ? key.allowed_models.join(", ") : say.keysOf.all)],
  ];
  if (writes) {
    columns.push([say.action, (key) => html`<span class="actions">
      ${!isOwn && html`<button type="button" onClick=${() => ask({ rotate: key })}>${say.keysOf.rotate}<span class="hidden"> ${key.name}</span></button>`}
      <button type="button" class="danger" onClick=${() => ask({ revoke: key })}>${say.keysOf.revoke}<span class="hidden"> ${key.name}</span></button></span>`]);
  }
  // Users manage keys only where the operator lets them.
  if (isOwn && keys.error?.status === 403) return null;
  const heading = isOwn ? "h2" : "h3";
  return html`<section aria-labelledby="keys"><${heading} id="keys">${say.keysOf.title}<//>
    <${Loaded} of=${keys}>${(keys) => html`<${Table} caption=${say.keysOf.title} columns=${columns} rows=${keys.data} rowKey=${(key) => key.id} empty=${say.keysOf.none} />`}<//>
    ${writes && html`<div class="actions"><button type="button" onClick=${() => ask({ make: true })}>${say.keysOf.make}</button></div>`}
    ${asked?.make && html`<${Make} base=${base} close=${close} shown=${shown} />`}
    ${asked?.rotate && html`<${Rotate} path=${path(asked.rotate)} name=${asked.rotate.name} text=${say.keysOf.rotateText} close=${close} shown=${shown} />`}
    ${asked?.revoke && html`<${Confirm} title=${say.keysOf.revoke} text=${say.keysOf.revokeText(asked.revoke.name, owner)} action=${say.keysOf.revoke}
      act=${() => call("DELETE", path(asked.revoke)).then(keys.reload)} close=${close} />`}
    ${made && html`<${KeyShown} title=${say.keysOf.shown(made.name)} secret=${made.api_key} close=${() => setMade(null)} />`}
  </section>`;
}

function Make({ base, close, shown }) {
  const submit = async (data) => {
    const models = modelsOf(data);
    const body = { name: data.get("name").trim() };
    if (data.get("ends")) body.expires_at = moment(data.get("ends"));
    if (models) body.allowed_models = models;
    shown(await call("POST", `${base}/keys`, { body }));
  };
  return html`<${Dialog} title=${say.keysOf.make} close=${close}>
    <${Form} submit=${submit} action=${say.keysOf.make} cancel=${close}>
      <${Field} label=${say.keysOf.name} hint=${say.keysOf.nameHint} name="name" required maxlength="64" />
      <${Field} label=${say.keysOf.ends} name="ends" type="datetime-local" />
      <${Field} label=${say.keysOf.models} hint=${say.keysOf.modelsHint} name="models" wide />
    <//><//>`;
}

/** How the secret in force begins and ends, and until when the one before is good. */
export const secretOf = ({ prefix, last_four: lastFour, previous }) =>
  html`<code>${prefix}…${lastFour}</code>${previous && html`<br /><small>${say.keysOf.previous(previous.last_four, time(previous.expires_at))}</small>`}`;

/** Asks how long the old secret works on. */
export function Rotate({ path, name, text, close, shown }) {
  const submit = async (data) => shown(await call("POST", `${path}/rotate`, { body: { grace_seconds: Number(data.get("grace")) } }));
  const options = [["86400", say.keysOf.day], ["3600", say.keysOf.hour], ["604800", say.keysOf.week], ["0", say.keysOf.now]];
  return html`<${Dialog} title=${say.keysOf.rotateTitle(name)} close=${close}>
    <${Form} submit=${submit} action=${say.keysOf.rotate} cancel=${close}>
      <p>${text}</p>
      <${Select} label=${say.keysOf.grace} name="grace" value="86400" options=${options} />
    <//><//>`;
}
