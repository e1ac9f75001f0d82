// What may I use, what do I use, and what becomes of my requests? All that a user's key opens.
import { html, useEffect, useRef, useState } from "../html.js";
import { call, events, get, part } from "../api.js";
import { dateFromToday, day, duration, monthBegin, number, time } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Confirm, Failure, Status, Table } from "../parts.js";
import { say } from "../strings.js";
import { Keys } from "./keys.js";
import { LimitBars, Standings } from "./limits.js";
import { Snippets } from "./snippets.js";

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

const DAYS = 7;

/** What the user used in the last days: days in UTC, as bills have them. */
function OwnUsage() {
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

/** What a model answers: one question, streamed; nothing of it is kept. */
function Try({ models }) {
  const [state, set] = useState({ text: "" });
  const abort = useRef(null);
  useEffect(() => () => abort.current?.abort(), []);
  const ask = async (event) => {
    event.preventDefault();
    if (state.busy) return;
    const data = new FormData(event.currentTarget);
    abort.current = new AbortController();
    set({ text: "", busy: true });
    const body = { model: data.get("model"), stream: true, messages: [{ role: "user", content: data.get("question") }] };
    const onData = (frame) => {
      if (frame.error) throw new Error(frame.error.message);
      const more = frame.choices?.[0]?.delta?.content ?? "";
      if (more) set((old) => ({ ...old, text: old.text + more }));
    };
    try {
      await events("POST", "v1/chat/completions", { body, signal: abort.current.signal, onData });
      set((old) => ({ text: old.text }));
    } catch (error) {
      set((old) => ({ text: old.text, error: error.name === "AbortError" ? null : error }));
    }
  };
  return html`<form onSubmit=${ask}>
    <div class="field"><label for="try-model">${say.model}</label>
      <select id="try-model" name="model" required>${models.map((name) => html`<option key=${name}>${name}</option>`)}</select></div>
    <div class="field wide"><label for="try-question">${say.me.question}</label>
      <textarea id="try-question" name="question" rows="2" required></textarea></div>
    <div class="actions"><button class="primary" aria-disabled=${state.busy ? "true" : undefined}>${say.me.ask}</button>
      ${state.busy && html`<button type="button" onClick=${() => abort.current.abort()}>${say.stop.action}</button>`}</div>
    ${(state.text || state.busy) && html`<div class="answer" role="log" aria-label=${say.me.answer} aria-busy=${state.busy ? "true" : "false"}>${state.text || say.me.waiting}</div>`}
    ${state.error && html`<${Failure} error=${state.error} />`}
  </form>`;
}
