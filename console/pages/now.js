// Is the service well, and what goes on? The verdict, the nodes, who waits and what runs, live.
import { html, useState } from "../html.js";
import { useLive } from "../live.js";
import { time } from "../format.js";
import { say } from "../strings.js";
import { NodeCard, NodeDialog } from "./node.js";
import { Queue } from "./queue.js";
import { Running } from "./running.js";
import { verdict } from "./verdict.js";

export default function Now() {
  const live = useLive();
  const [asked, ask] = useState(null);
  if (!live.nodes) return html`<p class=${live.stale ? "failure" : "quiet"} role="status">${live.stale ? say.now.noStream : say.loading}</p>`;
  const said = verdict(live);
  const running = live.running ?? [];
  const onNode = new Map();
  for (const request of running) {
    if (!onNode.has(request.node)) onNode.set(request.node, []);
    onNode.get(request.node).push(request);
  }
  return html`<div class=${live.stale ? "stale" : ""} data-live=${live.stale ? "stale" : "live"}>
    <p class=${`verdict ${said.kind}`} role="status">${said.text}</p>
    ${live.stale && html`<p class="failure" role="alert">${say.now.stale(time(live.at))}</p>`}
    <section aria-labelledby="nodes"><h2 id="nodes">${say.now.nodes}</h2>
      ${live.nodes.length ? null : html`<p class="quiet">${say.now.noNodes}</p>`}
      <ul class="cards">${live.nodes.map((node) => html`<${NodeCard} key=${node.name} node=${node} running=${onNode.get(node.name) ?? none} ask=${ask} />`)}</ul>
    </section>
    <${Queue} waiting=${live.waiting ?? none} queued=${live.queued ?? 0} ask=${ask} />
    <${Running} running=${running} ask=${ask} />
    <${NodeDialog} asked=${asked} close=${() => ask(null)} />
  </div>`;
}

const none = [];
