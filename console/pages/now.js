// Is the service well, and what goes on? The verdict, the nodes, who waits and what runs, live.
import { get } from "../api.js";
import { html, Still, useState } from "../html.js";
import { useLive } from "../live.js";
import { useLoad } from "../load.js";
import { time } from "../format.js";
import { say } from "../strings.js";
import { Demo } from "./demo.js";
import { Changes } from "./fleet-changes.js";
import { LastHour } from "./last-hour.js";
import { NodeCard, NodeDialog } from "./node.js";
import { Queue } from "./queue.js";
import { Running } from "./running.js";
import { verdict } from "./verdict.js";

export default function Now({ session }) {
  const live = useLive();
  const [asked, ask] = useState(null);
  // What the events do not tell of a node changes only with one of them.
  const facts = useLoad(async (signal) => new Map((await get("admin/nodes", {}, signal)).data.map((node) => [node.name, node])), [live.changes[0]?.id]);
  if (!live.nodes) return html`<p class=${live.stale ? "failure" : "quiet"} role="status">${live.stale ? say.now.noStream : say.loading}</p>`;
  const { running, waiting } = live;
  const said = verdict(live);
  const names = live.nodes.map((node) => node.name);
  const onNode = new Map();
  for (const request of running) {
    if (!onNode.has(request.node)) onNode.set(request.node, []);
    onNode.get(request.node).push(request);
  }
  return html`<div class=${live.stale ? "stale" : ""} data-live=${live.stale ? "stale" : "live"}>
    ${session.is_demo && html`<${Demo} />`}
    <p class=${`verdict ${said.kind}`} role="status">${said.text}</p>
    ${live.stale && html`<p class="failure" role="alert">${say.now.stale(time(live.heardAt))}</p>`}
    <section aria-labelledby="nodes"><h2 id="nodes">${say.now.nodes}</h2>
      ${live.nodes.length ? null : html`<p class="quiet">${say.now.noNodes}</p>`}
      <ul class="cards">${live.nodes.map((node) => html`<${NodeCard} key=${node.name} node=${node} facts=${facts.data?.get(node.name)} running=${onNode.get(node.name) ?? none} ask=${ask} />`)}</ul>
    </section>
    <${Queue} waiting=${waiting} leftOut=${live.waiting_left_out} elsewhere=${live.waiting_elsewhere} ask=${ask} />
    <${Running} running=${running} leftOut=${live.running_left_out} elsewhere=${live.running_elsewhere} ask=${ask} />
    <${Still} sign=${names.join("\n")}>${() => html`<${LastHour} nodes=${names} />`}<//>
    <${Changes} changes=${live.changes} />
    <${NodeDialog} asked=${asked} close=${() => ask(null)} />
  </div>`;
}

const none = [];
