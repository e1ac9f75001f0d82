// Who has the slots of a node? A square for each, with its user's letter in its user's colour.
import { html } from "../html.js";
import { say } from "../strings.js";

/** More squares than this are a number. */
const MOST = 32;

/** Models by what runs on them; a request may name one without its tag or by an alias. */
function lanes(node, running) {
  const lanes = new Map(node.loaded.map(({ name }) => [name, []]));
  for (const request of running) {
    const name = [request.model, `${request.model}:latest`].find((name) => lanes.has(name)) ?? request.model;
    if (!lanes.has(name)) lanes.set(name, []);
    lanes.get(name).push(request);
  }
  return [...lanes];
}

export function Slots({ node, running }) {
  return html`<ul class="lanes">${lanes(node, running).map(([model, requests]) => html`<li key=${model}>
    <span class="hidden">${say.node.slots(model, requests.length, node.slots)}</span>
    ${squares(requests, node.slots)}
  </li>`)}</ul>`;
}

function squares(requests, slots) {
  const shown = requests.slice(0, MOST);
  const free = Math.max(0, Math.min(MOST, slots) - shown.length);
  return html`<span class="squares" aria-hidden="true">
    ${shown.map((request) => html`<span key=${request.request_id} class=${`square ${colour(request.user_id)}`}
      title=${`${request.user_id} · ${request.model}`}>${[...request.user_id][0] ?? ""}</span>`)}
    ${Array.from({ length: free }, (_, index) => html`<span key=${`free-${index}`} class="square" title=${say.node.free}></span>`)}
    ${slots > MOST && html`<span class="figures">${requests.length} / ${slots}</span>`}
  </span>`;
}

/** The same of eight for the same user everywhere. */
export function colour(user) {
  let sum = 0;
  for (const letter of user) sum = (sum * 31 + letter.codePointAt(0)) % 8191;
  return `u${sum % 8}`;
}
