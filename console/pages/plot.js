// Tokens by day as a plot. The table beside it says the same in numbers.
import { html, useEffect, useRef, useState } from "../html.js";
import { compact } from "../format.js";
import { say } from "../strings.js";

let library = null;

/** The plotting library, which is no module: loaded once, when a plot is first shown. */
function plotting() {
  library ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("../vendor/uplot.css", import.meta.url).href;
    const script = document.createElement("script");
    script.src = new URL("../vendor/uplot.js", import.meta.url).href;
    script.onload = () => resolve(globalThis.uPlot);
    script.onerror = () => reject(new Error(say.error.reload));
    document.head.append(style, script);
  });
  return library;
}

/** `days` as the report has them, the oldest first; days without a request are drawn as nothing. */
export function Plot({ days }) {
  const ref = useRef();
  const [error, setError] = useState(null);
  useEffect(() => {
    if (days.length < 2) return undefined;
    let plot = null;
    let gone = false;
    const watcher = new ResizeObserver(() => plot?.setSize({ width: ref.current.clientWidth, height: HEIGHT }));
    plotting().then((Library) => {
      if (gone) return;
      plot = new Library(options(ref.current), series(days), ref.current);
      watcher.observe(ref.current);
    }, setError);
    return () => {
      gone = true;
      watcher.disconnect();
      plot?.destroy();
    };
  }, [days]);
  if (days.length < 2) return null;
  return html`<figure><figcaption>${say.usage.plot}</figcaption>${error ? html`<p class="quiet">${error.message}</p>` : null}
    <div class="plot" ref=${ref} role="img" aria-label=${say.usage.plotLabel}></div></figure>`;
}

const HEIGHT = 220;
const DAY = 86_400;

function series(days) {
  const at = new Map(days.map((row) => [Date.parse(`${row.day}T00:00:00Z`) / 1000, row]));
  const moments = [...at.keys()].sort((a, b) => a - b);
  const x = [];
  for (let moment = moments[0]; moment <= moments.at(-1); moment += DAY) x.push(moment);
  const of = (field) => x.map((moment) => at.get(moment)?.[field] ?? 0);
  return [x, of("prompt_tokens"), of("completion_tokens")];
}

function options(element) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
  const line = (label, name) => ({ label, stroke: colour(name), width: 2, points: { show: true, size: 5 } });
  return {
    width: element.clientWidth,
    height: HEIGHT,
    tzDate: (moment) => globalThis.uPlot.tzDate(new Date(moment * 1000), "UTC"),
    series: [{ label: say.usage.dimensions.day }, line(say.requests.prompt, "--u0"), line(say.requests.answer, "--u1")],
    axes: [axis, { ...axis, size: 64, values: (_, values) => values.map(compact) }],
    scales: { y: { range: (_, __, most) => [0, most || 1] } },
  };
}
