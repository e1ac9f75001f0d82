// How is the service, in one sentence?
import { duration } from "../format.js";
import { say } from "../strings.js";

/** `good`, `warn` or `bad`, and the sentence. */
export function verdict({ nodes, running, running_left_out, running_elsewhere, waiting, waiting_left_out, waiting_elsewhere }) {
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
