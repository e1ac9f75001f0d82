// How did the last hour go? Small plots of the whole fleet or of one node, drawn without a library.
import { html, useEffect, useState } from "../html.js";
import { get } from "../api.js";
import { compact, duration } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Select } from "../parts.js";
import { say } from "../strings.js";

const REFRESH_MS = 15_000;
const HOUR_SECONDS = 3600;
const HEIGHT = 40;
const plots = [["running", compact], ["waiting", compact], ["tokens_per_second", compact], ["first_token_ms", duration], ["errors_per_minute", compact]];

/** `nodes` are the names to choose from. */
export function LastHour({ nodes }) {
  const [node, choose] = useState("");
  const series = useLoad((signal) => get("admin/series", { node }, signal), [node]);
  // The next turn tries again; until then an older plot is better than none.
  useEffect(() => {
    const turn = setInterval(() => document.hidden || series.reload(), REFRESH_MS);
    return () => clearInterval(turn);
  }, []);
  return html`<section aria-labelledby="hour"><h2 id="hour">${say.hour.title}</h2>
    <div class="bar-of-tools"><${Select} label=${say.hour.of} name="hour-of" value=${node} options=${[["", say.hour.fleet], ...nodes.map((name) => [name, name])]}
      onChange=${(event) => choose(event.currentTarget.value)} /></div>
    <${Loaded} of=${series.data ? { data: series.data } : series}>${(series) => html`<div class="plots">${plots.map(([name, write]) => html`<${Line} key=${name} label=${say.hour[name]} write=${write}
      values=${series[name]} width=${HOUR_SECONDS / series.interval_seconds} />`)}</div>`}<//>
  </section>`;
}

function Line({ label, write, values, width }) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(0, ...known);
  const text = known.length ? say.hour.now(write(known.at(-1)), write(most)) : say.hour.unknown;
  return html`<figure><figcaption>${label} <span class="figures quiet">${text}</span></figcaption>
    <svg viewBox=${`0 -1 ${width} ${HEIGHT + 2}`} preserveAspectRatio="none" role="img" aria-label=${`${label}: ${text}`}><path d=${path(values, width, most || 1)} /></svg></figure>`;
}

/** The newest on the right; a line ends where nothing is known. */
function path(values, width, most) {
  const begin = width - values.length;
  let pen = "M";
  let d = "";
  values.forEach((value, index) => {
    if (value === null) pen = "M";
    else {
      d += `${pen}${begin + index} ${(HEIGHT - (HEIGHT * value) / most).toFixed(1)}`;
      // A point by itself is a line of no length, which a round cap shows.
      if (pen === "M") d += "h0";
      pen = "L";
    }
  });
  return d;
}
