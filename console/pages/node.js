// How is one node? Its state and since when, what it does, and draining it.
import { html, Still } from "../html.js";
import { call, part } from "../api.js";
import { since } from "../format.js";
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
  return html`<li class="card" data-node=${node.name}>
    <header><h3>${node.name}</h3><${Badge} kind=${kinds[node.state] ?? ""}>${say.states[node.state] ?? node.state}<//></header>
    <p class="quiet">${ago}${node.version ? ` · ${node.version}` : ""}</p>
    ${node.why && html`<p class=${node.state === "draining" ? "" : "failure"}>${node.why}</p>`}
    <${Slots} node=${node} running=${running} memory=${memory} />
    ${node.last_error && node.last_error !== node.why && html`<p class="failure">${node.last_error}</p>`}
    ${may("operate") && html`<div class="actions"><button type="button" onClick=${() => ask({ node: node.name, drains })}>
      ${drains ? say.node.undrain : say.node.drain}<span class="hidden"> ${node.name}</span></button></div>`}
  </li>`;
}

/** What is asked before something is done with a node or a request. */
export function NodeDialog({ asked, close }) {
  if (!asked) return null;
  if (asked.request) {
    const { request_id: id, user_id: user, model } = asked.request;
    const stop = (data) => call("DELETE", `admin/requests/${part(id)}`, { query: { reason: data.get("reason").trim() } });
    return html`<${Confirm} title=${say.stop.title} text=${say.stop.text(user, model)} action=${say.stop.action} act=${stop} close=${close}>
      <${Field} label=${say.stop.reason} hint=${say.stop.hint} name="reason" maxlength="200" wide /><//>`;
  }
  const path = `admin/nodes/${part(asked.node)}/`;
  const act = async (send) => {
    await send();
    close();
  };
  if (asked.drains) {
    return html`<${Dialog} title=${say.node.undrainTitle(asked.node)} close=${close}>
      <${Form} submit=${() => act(() => call("POST", `${path}undrain`))} action=${say.node.undrain} cancel=${close}><p>${say.node.undrainText}</p><//><//>`;
  }
  const drain = () => act(() => call("POST", `${path}drain`));
  return html`<${Dialog} title=${say.node.drainTitle(asked.node)} close=${close}>
    <${Form} submit=${drain} action=${say.node.drain} cancel=${close}>
      <p>${say.node.drainText}</p>
    <//><//>`;
}
