// What happened to the fleet last?
import { html } from "../html.js";
import { time } from "../format.js";
import { say } from "../strings.js";

export function Changes({ changes }) {
  if (!changes.length) return null;
  return html`<section aria-labelledby="happened"><h2 id="happened">${say.happened.title}</h2>
    <ul class="log">${changes.map((change) => html`<li key=${change.id}><span class="figures quiet">${time(change.at)}</span> ${say.happened.what(change)}</li>`)}</ul>
  </section>`;
}
