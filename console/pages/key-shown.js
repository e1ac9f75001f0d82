// A new key, shown this once, and how programs are told it.
import { html, useState } from "../html.js";
import { Copy, Dialog } from "../parts.js";
import { say } from "../strings.js";
import { Snippets } from "./snippets.js";

/** `programs`: whether it is one for programs. */
export function KeyShown({ title, secret, close, programs = true }) {
  const [shows, set] = useState(false);
  return html`<${Dialog} title=${title} close=${close} wide>
    <p>${say.keysOf.once}</p>
    <${Copy} text=${secret} label=${say.keysOf.secret} />
    ${!programs ? null : shows ? html`<${Snippets} secret=${secret} />` : html`<button type="button" onClick=${() => set(true)}>${say.snippets.show}</button>`}
    <div class="actions"><button type="button" class="primary" onClick=${close}>${say.keysOf.kept}</button></div>
  <//>`;
}
