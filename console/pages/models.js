// Which node has which model, and do they agree? Pull, load, unload, delete.
import { html, useState } from "../html.js";
import { call, get, part } from "../api.js";
import { gigabytes } from "../format.js";
import { Loaded, useLoad } from "../load.js";
import { Badge, Confirm, Table } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";
import { NodeChoice, Pull } from "./pull.js";

export default function Models() {
  const fleet = useLoad(async (signal) => {
    const [models, nodes] = await Promise.all([get("admin/models", {}, signal), get("admin/nodes", {}, signal)]);
    return { models: models.data, nodes: nodes.data.map((node) => node.name) };
  }, []);
  const [asked, ask] = useState(null);
  const close = () => ask(null);
  const act = (name) => (model, on) => html`<button type="button" class=${name === "delete" ? "danger" : undefined}
    onClick=${() => ask({ act: name, model, on })}>${say.models[name]}<span class="hidden"> ${model}</span></button>`;
  const columns = [
    [say.model, (model) => html`${model.name}${model.drift && html` <${Badge} kind="warn">${say.models.drift}<//>`}`],
    [say.models.nodes, (model) => html`<ul class="on-nodes">${model.nodes.map((on) => html`<li key=${on.node}>
      ${on.node} <span class="quiet"><code>${short(on.digest)}</code> ${gigabytes(on.size_bytes)}</span>${on.loaded && html` <${Badge} kind="good">${say.models.loaded}<//>`}</li>`)}</ul>`, "words"],
  ];
  if (may("operate")) {
    columns.push([say.action, (model) => html`<span class="actions">${["load", "unload", "delete"].map((name) => act(name)(model.name, model.nodes.map((on) => on.node)))}</span>`]);
  }
  return html`<div class="bar-of-tools">${may("operate") && html`<button type="button" class="primary" onClick=${() => ask({ act: "pull" })}>${say.models.pull}</button>`}
      <button type="button" onClick=${fleet.reload}>${say.refresh}</button></div>
    <${Loaded} of=${fleet}>${(fleet) => html`
      <${Table} caption=${say.pages.models} columns=${columns} rows=${fleet.models} rowKey=${(model) => model.name} empty=${say.models.none} />
      ${asked?.act === "pull" && html`<${Pull} nodes=${fleet.nodes} close=${() => {
        close();
        again();
      }} />`}`}<//>
    ${asked && asked.act !== "pull" && html`<${Act} asked=${asked} close=${close} done=${again} />`}`;

  // A node is asked about its models only some time after it has changed them.
  function again() {
    fleet.reload();
    setTimeout(fleet.reload, 1500);
  }
}

const short = (digest) => digest.replace(/^sha256:/, "").slice(0, 12);

function Act({ asked: { act, model, on }, close, done }) {
  const send = async (data) => {
    const nodes = data.getAll("nodes");
    if (act === "delete") await call("DELETE", `admin/models/${part(model)}`, { query: { nodes: nodes.join(",") } });
    else await call("POST", `admin/models/${act}`, { body: { model, nodes } });
    done();
  };
  return html`<${Confirm} title=${say.models[`${act}Title`](model)} text=${say.models[`${act}Text`]} action=${say.models[act]} act=${send} close=${close}>
    <${NodeChoice} nodes=${on} /><//>`;
}
