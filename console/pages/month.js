// How much of its tokens of this month has each group used? Only groups that have such a limit.
import { html } from "../html.js";
import { get } from "../api.js";
import { useLoad } from "../load.js";
import { Bar } from "../parts.js";
import { say } from "../strings.js";

/** `group`: only this one. */
export function Month({ group }) {
  const groups = useLoad((signal) => get("admin/groups", { limit: 1000 }, signal), []);
  const limited = (groups.data?.data ?? []).filter((row) => row.tokens_per_month !== null && (!group || row.group_id === group));
  if (!limited.length) return null;
  return html`<section aria-labelledby="month"><h2 id="month">${say.usage.month}</h2>
    <div class="bars">${limited.map((row) => html`<${Bar} key=${row.group_id} label=${row.group_id} used=${row.tokens_this_month} limit=${row.tokens_per_month} />`)}</div></section>`;
}
