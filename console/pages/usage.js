// Who used how much of what? Whole days in UTC, as bills have them: a plot, a table, a file.
import { html } from "../html.js";
import { address, get } from "../api.js";
import { compact, dateFromToday, day, duration, monthBegin, number } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Bar, Field, Select, Table } from "../parts.js";
import { go } from "../router.js";
import { say } from "../strings.js";
import { Plot } from "./plot.js";

const dimensions = ["user", "group", "model", "node", "day", "key", "status"];
/** A report with more rows than this is for the file. */
const MOST = 500;

export default function Usage({ route: { query } }) {
  const wanted = { by: "user", from: monthBegin(), to: dateFromToday(1), user: "", group: "", model: "", ...query };
  const filters = { from: wanted.from, to: wanted.to, user: wanted.user, group: wanted.group, model: wanted.model };
  const report = useLoad(async (signal) => {
    const ask = (group_by, limit) => get("admin/usage", { ...filters, group_by, limit }, signal);
    const [table, days] = await Promise.all([ask(wanted.by, MOST), ask("day", MOST)]);
    return { table, days: days.data };
  }, [JSON.stringify(wanted)]);
  const search = (event) => {
    event.preventDefault();
    go("usage", [], Object.fromEntries(new FormData(event.currentTarget)));
  };
  const file = address("admin/usage", { ...filters, group_by: wanted.by, format: "csv" });
  return html`<form class="filters" onSubmit=${search}>
      <${Select} label=${say.usage.by} name="by" value=${wanted.by} options=${dimensions.map((name) => [name, say.usage.dimensions[name]])} />
      <${Field} label=${say.usage.from} name="from" type="date" defaultValue=${wanted.from} />
      <${Field} label=${say.usage.to} name="to" type="date" defaultValue=${wanted.to} />
      <${Field} label=${say.user} name="user" defaultValue=${wanted.user} data-search />
      <${Field} label=${say.users.group} name="group" defaultValue=${wanted.group} />
      <${Field} label=${say.model} name="model" defaultValue=${wanted.model} />
      <button class="primary">${say.show}</button>
      <a class="button" href=${file} download="usage.csv">${say.usage.file}</a>
    </form>
    <p class="quiet">${say.usage.utc}</p>
    <${Loaded} of=${report}>${({ table, days }) => html`
      <p class="verdict">${say.usage.total(number(table.total.requests), compact(table.total.prompt_tokens), compact(table.total.completion_tokens))}</p>
      <${Plot} days=${days} />
      <${Table} caption=${say.pages.usage} columns=${columns(wanted.by)} rows=${table.data} empty=${say.usage.none} />
      <${Month} group=${wanted.group} />
      ${table.next && html`<p class="quiet">${say.usage.more(number(MOST))}</p>`}`}<//>`;
}

const labels = {
  user: (row) => row.user_id,
  group: (row) => row.group_id ?? say.usage.noGroup,
  key: (row) => row.key_id ?? say.usage.noKey,
  model: (row) => row.model,
  node: (row) => row.node ?? say.usage.noNode,
  day: (row) => day(row.day),
  status: (row) => say.statuses[row.status] ?? row.status,
};

const columns = (by) => [
  [say.usage.dimensions[by], labels[by] ?? labels.user],
  [say.usage.requests, (row) => number(row.requests), "number"],
  [say.usage.refused, (row) => number(row.refused), "number"],
  [say.requests.prompt, (row) => number(row.prompt_tokens), "number"],
  [say.requests.answer, (row) => number(row.completion_tokens), "number"],
  [say.usage.tokens, (row) => number(row.total_tokens), "number"],
  [say.usage.waited, (row) => duration(row.queue_ms), "number"],
  [say.usage.took, (row) => duration(row.duration_ms), "number"],
];

/** How much of its tokens of this month each group, or `group` alone, has used; only groups that have such a limit. */
function Month({ group }) {
  const groups = useLoad((signal) => get("admin/groups", { limit: 1000 }, signal), []);
  const limited = (groups.data?.data ?? []).filter((row) => row.tokens_per_month !== null && (!group || row.group_id === group));
  if (!limited.length) return null;
  return html`<section aria-labelledby="month"><h2 id="month">${say.usage.month}</h2>
    <div class="bars">${limited.map((row) => html`<${Bar} key=${row.group_id} label=${row.group_id} used=${row.tokens_this_month} limit=${row.tokens_per_month} />`)}</div></section>`;
}
