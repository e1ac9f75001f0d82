// What did I use in the last days? Days in UTC, as bills have them.
import { html } from "../html.js";
import { get } from "../api.js";
import { dateFromToday, day, monthBegin, number } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Table } from "../parts.js";
import { say } from "../strings.js";

const DAYS = 7;

export function OwnUsage() {
  const usage = useLoad(async (signal) => {
    const between = (from, to) => get("v1/usage/summary", { from, to }, signal);
    const month = await between(monthBegin(), dateFromToday(1));
    const days = [];
    // One after another: a user may only ask for so much at a time.
    for (let ago = 0; ago < DAYS; ago++) {
      const { total } = await between(dateFromToday(-ago), dateFromToday(1 - ago));
      days.push({ day: dateFromToday(-ago), ...total });
    }
    return { month, days };
  }, []);
  const sums = [
    [say.usage.requests, (row) => number(row.requests), "number"],
    [say.requests.prompt, (row) => number(row.prompt_tokens), "number"],
    [say.requests.answer, (row) => number(row.completion_tokens), "number"],
    [say.usage.tokens, (row) => number(row.total_tokens), "number"],
  ];
  return html`<section aria-labelledby="own-usage"><h2 id="own-usage">${say.pages.usage}</h2>
    <p class="quiet">${say.usage.utc}</p>
    <${Loaded} of=${usage}>${({ month, days }) => html`
      <${Table} caption=${say.me.days} columns=${[[say.usage.dimensions.day, (row) => day(row.day)], ...sums]} rows=${days} empty=${say.usage.none} />
      <h3>${say.me.month}</h3>
      <${Table} caption=${say.me.month} columns=${[[say.model, (row) => row.model], ...sums]} rows=${month.data} empty=${say.usage.none} />`}<//>
  </section>`;
}
