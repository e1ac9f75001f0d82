// One user: limits with what is used, keys, and who it is.
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { number, since, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Badge, Confirm, Dialog, Field, Form } from "../parts.js";
import { go, link } from "../router.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Keys } from "./keys.js";
import { LimitBars, LimitFields, whole } from "./limits.js";
import { Whose } from "./slots.js";

export function OneUser({ id }) {
  const path = `admin/users/${part(id)}`;
  const user = useLoad(async (signal) => {
    const [user, limits] = await Promise.all([get(path, {}, signal), get(`${path}/limits`, {}, signal)]);
    return { ...user, limits };
  }, [id]);
  const [asked, ask] = useState(null);
  const close = () => ask(null);
  const done = () => {
    close();
    user.reload();
  };
  const change = (body) => call("PATCH", path, { body });
  return html`<p><a href=${link("users")}>${say.users.back}</a></p>
    <${Loaded} of=${user}>${(user) => html`
      <h2><${Whose} user=${user.user_id} />${user.suspended && html` <${Badge} kind="warn">${say.users.suspended}<//>`}</h2>
      <${About} user=${user} />
      ${may("people") && html`<div class="actions">
        <button type="button" onClick=${() => ask("limits")}>${say.users.changeLimits}</button>
        ${"suspended" in user && html`<button type="button" onClick=${() => ask("about")}>${say.users.change}</button>
          <button type="button" onClick=${() => ask("suspend")}>${user.suspended ? say.users.resume : say.users.suspend}</button>`}
        <button type="button" class="danger" onClick=${() => ask("delete")}>${say.users.delete}</button>
      </div>`}
      <h3>${say.limits.title}</h3>
      <${LimitBars} of=${user.limits} />
      <${Keys} base=${path} owner=${user.user_id} writes=${may("people")} />
      <p><a href=${link("requests", [], { user: user.user_id })}>${say.users.requests}</a> · <a href=${link("usage", [], { user: user.user_id })}>${say.users.usage}</a></p>
      ${asked === "limits" && html`<${ChangeLimits} path=${path} limits=${user.limits} close=${close} done=${done} />`}
      ${asked === "about" && html`<${ChangeAbout} user=${user} change=${change} close=${close} done=${done} />`}
      ${asked === "suspend" && html`<${Confirm} title=${user.suspended ? say.users.resume : say.users.suspend} text=${user.suspended ? say.users.resumeText(user.user_id) : say.users.suspendText(user.user_id)}
        action=${user.suspended ? say.users.resume : say.users.suspend} act=${() => change({ suspended: !user.suspended })} close=${close} done=${done} />`}
      ${asked === "delete" && html`<${Confirm} title=${say.users.delete} text=${say.users.deleteText(user.user_id)} action=${say.users.delete}
        act=${() => call("DELETE", path)} close=${close} done=${() => go("users")} />`}
    `}<//>`;
}

function About({ user }) {
  const pairs = [
    [say.users.name, user.display_name],
    [say.users.email, user.email],
    [say.users.group, user.group && html`<a href=${link("groups", [user.group])}>${user.group}</a>`],
    [say.users.note, user.note],
    [say.users.since, time(user.created_at)],
    [say.users.seen, user.last_seen && since(user.last_seen)],
    [say.limits.weight, number(user.weight)],
  ].filter(([, value]) => value !== null && value !== undefined);
  return html`<dl class="pairs">${pairs.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

function ChangeLimits({ path, limits, close, done }) {
  const submit = async (data) => {
    await call("PUT", `${path}/limits`, { body: { ...whole(data), weight: Number(data.get("weight")) } });
    done();
  };
  return html`<${Dialog} title=${say.users.changeLimits} close=${close}>
    <${Form} submit=${submit} action=${say.save} cancel=${close}>
      <${LimitFields} of=${limits} />
      <${Field} label=${say.limits.weight} hint=${say.limits.weightHint} name="weight" type="number" min="0.001" max="1000" step="any" defaultValue=${limits.weight} required />
    <//><//>`;
}

function ChangeAbout({ user, change, close, done }) {
  const fields = ["display_name", "email", "note", "group"].filter((name) => name in user);
  const submit = async (data) => {
    await change(Object.fromEntries(fields.map((name) => [name, data.get(name).trim() || null])));
    done();
  };
  return html`<${Dialog} title=${say.users.change} close=${close}>
    <${Form} submit=${submit} action=${say.save} cancel=${close}>
      <${Field} label=${say.users.name} name="display_name" defaultValue=${user.display_name ?? ""} />
      <${Field} label=${say.users.email} name="email" type="email" defaultValue=${user.email ?? ""} />
      ${"group" in user && html`<${Field} label=${say.users.group} name="group" defaultValue=${user.group ?? ""} />`}
      <${Field} label=${say.users.note} name="note" defaultValue=${user.note ?? ""} wide />
    <//><//>`;
}
