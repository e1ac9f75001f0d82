// Which limits are there, how are they asked for, and how much of them is used?
import { html } from "../html.js";
import { Bar, Field } from "../parts.js";
import { say } from "../strings.js";

export const names = ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "tokens_per_month", "max_concurrency"];

/** A field for each limit that `of` has, with its value; without `of` empty ones. */
export function LimitFields({ of, only = names }) {
  const shown = of ? only.filter((name) => name in of) : only;
  return html`<div class="grid">${shown.map((name) => html`<${Field} key=${name} label=${say.limits[name]} name=${name}
    type="number" min="0" step="1" defaultValue=${of?.[name] ?? ""} placeholder=${say.limits.none} />`)}</div>`;
}

/** The limits of a form that are filled in. */
export function given(data) {
  const filled = names.filter((name) => data.has(name) && data.get(name) !== "");
  return Object.fromEntries(filled.map((name) => [name, Number(data.get(name))]));
}

/** All limits of a form: an empty field is no limit. */
export function whole(data) {
  const asked = names.filter((name) => data.has(name));
  return Object.fromEntries(asked.map((name) => [name, data.get(name) === "" ? null : Number(data.get(name))]));
}

/** A bar for each limit, with what is used of it. */
export function LimitBars({ of }) {
  const { used } = of;
  const bars = [
    ["requests_per_minute", used.requests_last_minute],
    ["tokens_per_minute", used.tokens_last_minute],
    ["tokens_per_day", used.tokens_today + used.tokens_reserved],
    ["tokens_per_month", used.tokens_this_month],
    ["max_concurrency", used.concurrency],
  ];
  const shown = bars.filter(([name, value]) => name in of && value !== undefined);
  return html`<div class="bars">${shown.map(([name, value]) => html`<${Bar} key=${name} label=${say.limits[name]} used=${value} limit=${of[name]} />`)}</div>`;
}
