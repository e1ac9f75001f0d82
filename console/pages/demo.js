// Is anybody at work in the demo? Simulated people, to turn on and off.
import { html, useState } from "../html.js";
import { call, get } from "../api.js";
import { Loaded, useLoad } from "../load.js";
import { Failure } from "../parts.js";
import { may } from "../session.js";
import { say } from "../strings.js";

export function Demo() {
  const demo = useLoad((signal) => get("admin/demo", {}, signal), []);
  const [error, setError] = useState(null);
  const turn = (traffic) => call("PUT", "admin/demo", { body: { traffic } }).then(demo.reload, setError);
  return html`<${Loaded} of=${demo}>${({ traffic }) => html`<div class="bar-of-tools">
      <span>${traffic ? say.demo.on : say.demo.off}</span>
      ${may("operate") && html`<button type="button" class=${traffic ? undefined : "primary"} onClick=${() => turn(!traffic)}>${traffic ? say.demo.stop : say.demo.start}</button>`}
    </div>`}<//>
    ${error && html`<${Failure} error=${error} />`}`;
}
