// Which limits are there, how are they asked for, and how much of them is used?
import { html } from "../html.js";
import { Bar, Field } from "../parts.js";
import { say } from "../strings.js";

export const names = ["requests_per_minute", "tokens_per_minute", "tokens_per_day", "max_concurrency"];
const all = [...names, "tokens_per_month"];

/** A field for each limit that `of` has, with its value; without `of` empty ones. */
export function LimitFields({ of, only = names }) {
  const shown = of ? only.filter((name) => name in of) : only;
  return html`<div class="grid">${shown.map((name) => html`<${Field} key=${name} label=${say.limits[name]} name=${name}
    type="number" min="0" step="1" defaultValue=${of?.[name] ?? ""} placeholder=${say.limits.none} />`)}</div>`;
}

/** The limits of a form that are filled in. */
export function given(data) {
  const filled = all.filter((name) => data.has(name) && data.get(name) !== "");
  return Object.fromEntries(filled.map((name) => [name, Number(data.get(name))]));
}

/** All limits of a form: an empty field is no limit. */
export function whole(data) {
  const asked = all.filter((name) => data.has(name));
  return Object.fromEntries(asked.map((name) => [name, data.get(name) === "" ? null : Number(data.get(name))]));
}

/** The models of a form's field; none for all. */
export function modelsOf(data) {
  const models = data.get("models").split(",").map((name) => name.trim()).filter(Boolean);
  return models.length ? models : null;
}

/** A bar for each limit that there is, as `/v1/me` tells of it. */
export function Standings({ limits }) {
  return html`<div class="bars">${limits.map((each) => html`<${Bar} key=${each.limit} label=${say.limits[each.limit]} used=${each.used + each.reserved} limit=${each.allowed} />`)}</div>`;
}

/** A bar for each limit of a user, with what is used of it. */
export function LimitBars({ of }) {
  const { used } = of;
  const bars = [
    ["requests_per_minute", used.requests_last_minute],
    ["tokens_per_minute", used.tokens_last_minute],
    ["tokens_per_day", used.tokens_today + used.tokens_reserved],
    ["max_concurrency", used.concurrency],
  ];
  const shown = bars.filter(([name, value]) => name in of && value !== undefined);
  return html`<div class="bars">${shown.map(([name, value]) => html`<${Bar} key=${name} label=${say.limits[name]} used=${value} limit=${of[name]} />`)}</div>`;
}
