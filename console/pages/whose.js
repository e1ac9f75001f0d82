// Whose is it? The user's square beside the name.
import { html } from "../html.js";
import { colour } from "./slots.js";

export function Whose({ user }) {
  return html`<span class="whose"><span class=${`square small ${colour(user)}`} aria-hidden="true"></span>${user}</span>`;
}
