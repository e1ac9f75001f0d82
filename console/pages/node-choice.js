// On which nodes is it to be done? All of them at first.
import { html } from "../html.js";
import { say } from "../strings.js";

export function NodeChoice({ nodes }) {
  return html`<fieldset><legend>${say.models.nodes}</legend>
    ${nodes.map((node) => html`<label key=${node} class="check"><input type="checkbox" name="nodes" value=${node} defaultChecked /> ${node}</label>`)}
  </fieldset>`;
}
