// What does one node do? Its state, its slots by user, what is in its memory, and draining it.
import { html } from "../html.js";
import { call, part } from "../api.js";
import { decimal, gigabytes, percent, since } from "../format.js";
import { Badge, Confirm, Dialog, Field, Form } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { Slots } from "./slots.js";

const kinds = { up: "good", suspect: "warn", draining: "warn", down: "bad" };

export function NodeCard({ node, running, ask }) {
  const drains = node.state === "draining";
  return html`<li class="card" data-node=${node.name}>
    <header><h3>${node.name}</h3><${Badge} kind=${kinds[node.state] ?? ""}>${say.states[node.state] ?? node.state}<//></header>
    <p class="quiet">${node.since ? say.node.since(since(node.since)) : say.node.unheard}${node.version ? ` · ${node.version}` : ""}
      ${node.tokens_per_second ? ` · ${say.node.speed(decimal(node.tokens_per_second))}` : ""}</p>
    ${reason(node) && html`<p>${reason(node)}</p>`}
    <${Slots} node=${node} running=${running} />
    <${Memory} node=${node} />
    ${node.last_error && html`<p class="failure">${node.last_error}</p>`}
    ${may("operate") && html`<div class="actions"><button type="button" onClick=${() => ask({ node: node.name, drains })}>
      ${drains ? say.node.undrain : say.node.drain}<span class="hidden"> ${node.name}</span></button></div>`}
  </li>`;
}

/** Why it drains and until when, as far as it was said. */
function reason(node) {
  const { reason, until } = node.maintenance ?? {};
  return node.state === "draining" && (reason || until) ? say.node.maintenance(reason, until && since(until)) : null;
}

function Memory({ node }) {
  const total = node.settings?.vram_gb ? node.settings.vram_gb * 1e9 : null;
  if (!node.loaded.length && !node.loading) return html`<p class="quiet">${say.node.empty}</p>`;
  return html`<ul class="memory">
    ${node.loaded.map((model) => html`<li key=${model.name}>
      <span class="name">${model.name}</span>
      <span class="figures">${gigabytes(model.vram_bytes)}${total ? ` · ${percent(model.vram_bytes / total)}` : ""}</span>
      ${total && html`<progress max="1" value=${Math.min(1, model.vram_bytes / total)} aria-label=${say.node.share(model.name)}></progress>`}
    </li>`)}
    ${node.loading && html`<li><span class="name">${node.loading}</span><span class="figures">${say.node.loading}</span></li>`}
  </ul>`;
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
  const drain = (data) => act(() => call("POST", `${path}drain`, { body: drainOrder(data) }));
  return html`<${Dialog} title=${say.node.drainTitle(asked.node)} close=${close}>
    <${Form} submit=${drain} action=${say.node.drain} cancel=${close}>
      <p>${say.node.drainText}</p>
      <${Field} label=${say.node.reason} hint=${say.node.reasonHint} name="reason" maxlength="200" wide />
      <${Field} label=${say.node.until} name="until" type="datetime-local" />
    <//><//>`;
}

/** What is left empty is left out. */
function drainOrder(data) {
  const order = {};
  if (data.get("reason").trim()) order.reason = data.get("reason").trim();
  if (data.get("until")) order.until = new Date(data.get("until")).toISOString();
  return order;
}
