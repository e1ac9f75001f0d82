// What may I use, what do I use, and what becomes of my requests? All that a user's key opens.
import { html, useEffect, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { duration, number, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Confirm, Table } from "../parts.js";
import { say } from "../strings.js";
import { Keys } from "./keys.js";
import { LimitBars, Standings } from "./limits.js";
import { OwnUsage } from "./own-usage.js";
import { Snippets } from "./snippets.js";
import { Status } from "./status.js";
import { Try } from "./try.js";

const REFRESH_MS = 3000;
/** The list does not say what a model can do; these come last, as nobody can talk to them. */
const onlyEmbeds = /embed|minilm|bge-/i;

export default function Me() {
  const me = useLoad((signal) => get("v1/me", {}, signal), []);
  const requests = useLoad((signal) => get("v1/me/requests", {}, signal), []);
  const models = useLoad((signal) => get("v1/models", {}, signal), []);
  useEffect(() => {
    const turn = setInterval(() => {
      if (document.hidden) return;
      me.reload();
      requests.reload();
    }, REFRESH_MS);
    return () => clearInterval(turn);
  }, []);
  const names = (models.data?.data ?? []).map((model) => model.id).sort((a, b) => onlyEmbeds.test(a) - onlyEmbeds.test(b));
  return html`<${Loaded} of=${me}>${(me) => html`
      <p class="verdict">${say.me.hello(me.user_id, me.group)}</p>
      <${LimitBars} of=${me} />
      ${ofGroup(me).length > 0 && html`<h2>${say.me.group}</h2><${Standings} limits=${ofGroup(me)} />`}
      ${resets(me.resets) && html`<p class="quiet">${resets(me.resets)}</p>`}`}<//>
    <${Loaded} of=${requests}>${(requests) => html`<${Own} requests=${requests} />`}<//>
    <section aria-labelledby="try"><h2 id="try">${say.me.try}</h2><${Try} models=${names} /></section>
    <section aria-labelledby="models"><h2 id="models">${say.pages.models}</h2>
      <${Loaded} of=${models}>${() => html`<ul class="tags">${names.map((name) => html`<li key=${name}><code>${name}</code></li>`)}</ul>`}<//></section>
    <${OwnUsage} />
    ${me.data && html`<${Keys} base="v1/me" owner=${me.data.user_id} writes isOwn />`}
    <section aria-labelledby="connect"><h2 id="connect">${say.snippets.title}</h2><${Snippets} model=${names[0]} /></section>`;
}

/** What all users of the group may use together. */
const ofGroup = ({ limits }) => limits.filter((limit) => limit.of === "group");

/** When more may be used. */
function resets({ requests_ms: requests, tokens_ms: tokens }) {
  const parts = [];
  if (requests) parts.push(say.me.requestsBack(duration(requests)));
  if (tokens) parts.push(say.me.tokensBack(duration(tokens)));
  return parts.join(" ");
}

function Own({ requests }) {
  const [asked, ask] = useState(null);
  const open = [
    [say.model, (row) => row.model],
    [say.running.state, (row) => row.summary],
    [say.queue.position, (row) => number(row.position), "number"],
    [say.running.since, (row) => duration(row.since_ms), "number"],
    [say.running.tokens, (row) => number(row.completion_tokens), "number"],
    [say.action, (row) => html`<button type="button" onClick=${() => ask(row)}>${say.stop.action}</button>`],
  ];
  const ended = [
    [say.requests.when, (row) => time(row.created_at)],
    [say.model, (row) => row.model],
    [say.requests.status, (row) => html`<${Status} row=${row} />`],
    [say.requests.code, (row) => [row.code, row.limit].filter(Boolean).join(" · ")],
    [say.requests.tokens, (row) => number(row.total_tokens), "number"],
    [say.requests.took, (row) => duration(row.duration_ms), "number"],
  ];
  return html`<section aria-labelledby="open"><h2 id="open">${say.me.open}</h2>
      <${Table} caption=${say.me.open} columns=${open} rows=${requests.data} rowKey=${(row) => row.request_id} empty=${say.me.noneOpen} /></section>
    <section aria-labelledby="recent"><h2 id="recent">${say.me.recent}</h2>
      <${Table} caption=${say.me.recent} columns=${ended} rows=${requests.recent} rowKey=${(row) => row.request_id} empty=${say.requests.none} /></section>
    ${asked && html`<${Confirm} title=${say.stop.title} text=${say.stop.own(asked.model)} action=${say.stop.action}
      act=${() => call("DELETE", `v1/me/requests/${part(asked.request_id)}`)} close=${() => ask(null)} />`}`;
}
