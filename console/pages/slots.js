// What has a node in its memory, and who has the slots there? A square for each, with its user's letter and colour.
import { html } from "../html.js";
import { decimal, gigabytes, percent } from "../format.js";
import { say } from "../strings.js";

/** More squares than this are a number. */
const MOST = 32;

/** The models of a node with what runs of each; a request may name one without its tag, or by an alias. */
function lanes(node, running) {
  const lanes = new Map(node.models.map((model) => [model.name, { model, requests: [] }]));
  for (const request of running) {
    const name = [request.model, `${request.model}:latest`].find((name) => lanes.has(name)) ?? request.model;
    if (!lanes.has(name)) lanes.set(name, { model: { vram_bytes: 0, slots_used: 0, slots_total: 0 }, requests: [] });
    lanes.get(name).requests.push(request);
  }
  return [...lanes];
}

/** `memory` is what the node has for models, in bytes, as far as it was configured. */
export function Slots({ node, running, memory }) {
  const shown = lanes(node, running);
  return html`<ul class="lanes">
    ${shown.map(([name, { model, requests }]) => html`<li key=${name}>
      <span>${name}</span>
      <span class="figures">${model.vram_bytes > 0 && gigabytes(model.vram_bytes)}${memory ? ` · ${percent(model.vram_bytes / memory)}` : ""}</span>
      <span class="hidden">${say.node.slots(used(model, requests), Math.max(model.slots_total, used(model, requests)))}</span>
      ${squares(requests, used(model, requests), model.slots_total)}
      <span class="figures quiet">${model.tokens_per_second ? say.node.speed(decimal(model.tokens_per_second)) : ""}</span>
      ${memory && html`<progress max="1" value=${Math.min(1, model.vram_bytes / memory)} aria-label=${say.node.share(name)}></progress>`}
    </li>`)}
    ${node.loading && html`<li key="loading"><span>${node.loading}</span><span class="figures">${say.node.loading}</span></li>`}
    ${!shown.length && !node.loading && html`<li key="empty" class="quiet">${say.node.empty}</li>`}
  </ul>`;
}

/** Other gateways' requests use slots as well. */
const used = (model, requests) => Math.max(model.slots_used, requests.length);

function squares(requests, used, slots) {
  const shown = requests.slice(0, MOST);
  const others = Math.min(MOST, used) - shown.length;
  const free = Math.max(0, Math.min(MOST, slots) - shown.length - others);
  return html`<span class="squares" aria-hidden="true">
    ${shown.map((request) => html`<span key=${request.request_id} class=${`square ${colour(request.user_id)}`}
      title=${`${request.user_id} · ${request.model}`}>${[...request.user_id][0] ?? ""}</span>`)}
    ${Array.from({ length: others }, (_, index) => html`<span key=${`other-${index}`} class="square other" title=${say.node.other}></span>`)}
    ${Array.from({ length: free }, (_, index) => html`<span key=${`free-${index}`} class="square" title=${say.node.free}></span>`)}
    ${slots > MOST && html`<span class="figures">${used} / ${slots}</span>`}
  </span>`;
}

/** The same of eight for the same user everywhere. */
export function colour(user) {
  let sum = 0;
  for (const letter of user) sum = (sum * 31 + letter.codePointAt(0)) % 8191;
  return `u${sum % 8}`;
}

/** Whose it is: the user's square beside the name. */
export function Whose({ user }) {
  return html`<span class="whose"><span class=${`square small ${colour(user)}`} aria-hidden="true"></span>${user}</span>`;
}
