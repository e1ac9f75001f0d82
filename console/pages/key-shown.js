// A new key, shown this once, and how programs are told it.
import { html, useState } from "../html.js";
import { Copy, Dialog } from "../parts.js";
import { say } from "../strings.js";
import { Snippets } from "./snippets.js";

export function KeyShown({ title, secret, close }) {
  const [shows, set] = useState(false);
  return html`<${Dialog} title=${title} close=${close} wide>
    <p>${say.keysOf.once}</p>
    <${Copy} text=${secret} label=${say.keysOf.secret} />
    ${shows ? html`<${Snippets} secret=${secret} />` : html`<button type="button" onClick=${() => set(true)}>${say.snippets.show}</button>`}
    <div class="actions"><button type="button" class="primary" onClick=${close}>${say.keysOf.kept}</button></div>
  <//>`;
}
