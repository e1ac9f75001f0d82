// Is the service well, and what goes on? The verdict, the nodes, who waits and what runs, live.
import { html, Still, useState } from "../html.js";
import { call, get } from "../api.js";
import { duration, time } from "../format.js";
import { useLive } from "../live.js";
import { Loaded, useLoad } from "../load.js";
import { Failure } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { LastHour } from "./last-hour.js";
import { NodeCard, NodeDialog } from "./node.js";
import { Queue, Running } from "./queue.js";

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

/** What happened to the fleet last. */
function Changes({ changes }) {
  if (!changes.length) return null;
  return html`<section aria-labelledby="happened"><h2 id="happened">${say.happened.title}</h2>
    <ul class="log">${changes.map((change) => html`<li key=${change.id}><span class="figures quiet">${time(change.at)}</span> ${say.happened.what(change)}</li>`)}</ul>
  </section>`;
}

/** `good`, `warn` or `bad`, and the sentence. */
function verdict({ nodes, running, running_left_out, running_elsewhere, waiting, waiting_left_out, waiting_elsewhere }) {
  if (!nodes.length) return { kind: "bad", text: say.verdict.noNodes };
  const down = nodes.filter((node) => node.state === "down");
  const serving = nodes.filter((node) => node.state === "up" || node.state === "suspect");
  // Of those that this gateway carries: nobody says it of the others.
  const longest = waiting.reduce((most, request) => Math.max(most, request.since_ms ?? 0), 0);
  const queued = waiting.length + waiting_left_out + waiting_elsewhere;
  const work = say.verdict.work(running.length + running_left_out + running_elsewhere, queued, queued && !waiting_elsewhere ? duration(longest) : null);
  if (!serving.length) return { kind: "bad", text: say.verdict.noneServes(work) };
  if (down.length) return { kind: "bad", text: say.verdict.down(nodes.length, down.map((node) => node.name), work) };
  const suspect = nodes.filter((node) => node.state === "suspect");
  if (suspect.length) return { kind: "warn", text: say.verdict.suspect(suspect.map((node) => node.name), work) };
  const draining = nodes.filter((node) => node.state === "draining");
  if (draining.length) return { kind: "warn", text: say.verdict.draining(nodes.length, draining.map((node) => node.name), work) };
  return { kind: "good", text: say.verdict.good(nodes.length, work) };
}

/** Whether anybody is at work in the demo: simulated people, to turn on and off. */
function Demo() {
  const demo = useLoad((signal) => get("admin/demo", {}, signal), []);
  const [error, setError] = useState(null);
  const turn = (traffic) => call("PUT", "admin/demo", { body: { traffic } }).then(demo.reload, setError);
  return html`<${Loaded} of=${demo}>${({ traffic }) => html`<div class="bar-of-tools">
      <span>${traffic ? say.demo.on : say.demo.off}</span>
      ${may("operate") && html`<button type="button" class=${traffic ? undefined : "primary"} onClick=${() => turn(!traffic)}>${traffic ? say.demo.stop : say.demo.start}</button>`}
    </div>`}<//>
    ${error && html`<${Failure} error=${error} />`}`;
}
