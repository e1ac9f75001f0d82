// How is one node? Its state and since when, what it does, and draining it.
import { html, Still } from "../html.js";
import { call, part } from "../api.js";
import { local, moment, since, time } from "../format.js";
import { Badge, Confirm, Dialog, Field, Form } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Slots } from "./slots.js";

const kinds = { up: "good", suspect: "warn", draining: "warn", down: "bad" };

export function NodeCard({ node, facts, running, ask }) {
  const memory = facts?.settings?.vram_gb ? facts.settings.vram_gb * 1e9 : null;
  const ago = node.since ? say.node.since(since(node.since)) : say.node.unheard;
  // Most nodes are as they were a second ago.
  const sign = JSON.stringify([node, memory, ago, running.map((request) => [request.request_id, request.user_id])]);
  return html`<${Still} sign=${sign}>${() => html`<${Card} node=${node} memory=${memory} ago=${ago} running=${running} ask=${ask} />`}<//>`;
}

function Card({ node, memory, ago, running, ask }) {
  const drains = node.state === "draining";
  const maintenance = node.maintenance ?? null;
  return html`<li class="card" data-node=${node.name}>
    <header><h3>${node.name}</h3><${Badge} kind=${kinds[node.state] ?? ""}>${say.states[node.state] ?? node.state}<//></header>
    <p class="quiet">${ago}${node.version ? ` · ${node.version}` : ""}</p>
    ${maintenance && html`<p>${say.node.maintenance(maintenance.reason, maintenance.until && time(maintenance.until))}</p>`}
    ${node.why && !maintenance && html`<p class=${drains ? "" : "failure"}>${node.why}</p>`}
    <${Slots} node=${node} running=${running} memory=${memory} />
    ${node.last_error && node.last_error !== node.why && html`<p class="failure">${node.last_error}</p>`}
    ${may("operate") && html`<div class="actions">
      ${drains && html`<${Ask} text=${say.node.undrain} node=${node} act=${() => ask({ undrain: node.name })} />`}
      <${Ask} text=${drains ? say.node.edit : say.node.drain} node=${node} act=${() => ask({ drain: node.name, maintenance })} /></div>`}
  </li>`;
}

const Ask = ({ text, node, act }) => html`<button type="button" onClick=${act}>${text}<span class="hidden"> ${node.name}</span></button>`;

/** What is asked before something is done with a node or a request. */
export function NodeDialog({ asked, close }) {
  if (!asked) return null;
  if (asked.request) {
    const { request_id: id, user_id: user, model } = asked.request;
    const stop = (data) => call("DELETE", `admin/requests/${part(id)}`, { query: { reason: data.get("reason").trim() } });
    return html`<${Confirm} title=${say.stop.title} text=${say.stop.text(user, model)} action=${say.stop.action} act=${stop} close=${close}>
      <${Field} label=${say.stop.reason} hint=${say.stop.hint} name="reason" maxlength="200" wide /><//>`;
  }
  if (asked.undrain) {
    return html`<${Sent} title=${say.node.undrainTitle(asked.undrain)} action=${say.node.undrain} node=${asked.undrain} act="undrain" close=${close}>
      <p>${say.node.undrainText}</p><//>`;
  }
  const { drain: node, maintenance } = asked;
  const body = (data) => ({ reason: data.get("reason").trim() || null, until: moment(data.get("until")) ?? null });
  return html`<${Sent} title=${say.node.drainTitle(node)} action=${maintenance ? say.save : say.node.drain} node=${node} act="drain" body=${body} close=${close}>
    <p>${say.node.drainText}</p>
    <${Field} label=${say.stop.reason} hint=${say.node.reasonHint} name="reason" maxlength="200" defaultValue=${maintenance?.reason ?? ""} wide />
    <${Field} label=${say.node.until} hint=${say.node.untilHint} name="until" type="datetime-local" defaultValue=${local(maintenance?.until)} />
  <//>`;
}

/** A dialog whose form is sent to an action of the node. */
function Sent({ title, action, node, act, body, close, children }) {
  const submit = async (data) => {
    await call("POST", `admin/nodes/${part(node)}/${act}`, { body: body?.(data) });
    close();
  };
  return html`<${Dialog} title=${title} close=${close}><${Form} submit=${submit} action=${action} cancel=${close}>${children}<//><//>`;
}
