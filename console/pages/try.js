// What does a model answer? One question, streamed; nothing of it is kept.
import { html, useEffect, useRef, useState } from "../html.js";
import { events } from "../api.js";
import { Failure } from "../parts.js";
import { say } from "../strings.js";

export function Try({ models }) {
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
