// Pulls a model to the nodes that are chosen, and shows how far each one is.
import { html, useEffect, useRef, useState } from "../html.js";
import { events } from "../api.js";
import { gigabytes } from "../format.js";
import { Dialog, Failure, Field, Form } from "../parts.js";
import { say } from "../strings.js";

export function Pull({ nodes, close }) {
  const [progress, set] = useState(null);
  const [end, setEnd] = useState(null);
  const abort = useRef(new AbortController());
  useEffect(() => () => abort.current.abort(), []);
  const pull = async (data) => {
    const order = { model: data.get("model").trim(), nodes: data.getAll("nodes") };
    set(Object.fromEntries(order.nodes.map((node) => [node, {}])));
    const onData = (event) => (event.done ? setEnd(event) : set((old) => ({ ...old, [event.node]: event })));
    try {
      await events("POST", "admin/models/pull", { body: order, signal: abort.current.signal, onData });
    } catch (error) {
      if (error.name === "AbortError") return;
      set(null);
      throw error;
    }
  };
  return html`<${Dialog} title=${say.models.pull} close=${close}>
    ${progress ? html`<${Progress} of=${progress} />` : html`<${Form} submit=${pull} action=${say.models.pull} cancel=${close}>
      <${Field} label=${say.model} hint=${say.models.pullHint} name="model" required maxlength="256" wide />
      <${NodeChoice} nodes=${nodes} /><//>`}
    ${end && html`<p role="status">${say.models.pulled(end.succeeded, end.failed)}</p>`}
    ${progress && html`<div class="actions"><button type="button" class=${end ? "primary" : "danger"} onClick=${close}>${end ? say.close : say.models.stopPull}</button></div>`}
  <//>`;
}

function Progress({ of }) {
  return html`<ul class="progress">${Object.entries(of).map(([node, event]) => html`<li key=${node}>
    <strong>${node}</strong> ${event.error ? html`<${Failure} error=${{ message: event.error }} />` : html`<span>${event.status ?? say.models.asked}</span>`}
    ${event.total > 0 && html`<progress max=${event.total} value=${event.completed ?? 0} aria-label=${node}></progress>
      <span class="figures">${say.of(gigabytes(event.completed ?? 0), gigabytes(event.total))}</span>`}
  </li>`)}</ul>`;
}

/** On which nodes it is to be done: all of them at first. */
export function NodeChoice({ nodes }) {
  return html`<fieldset><legend>${say.models.nodes}</legend>
    ${nodes.map((node) => html`<label key=${node} class="check"><input type="checkbox" name="nodes" value=${node} defaultChecked /> ${node}</label>`)}
  </fieldset>`;
}
