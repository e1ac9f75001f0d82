// How is markup written? Tagged templates over Preact, which puts every value into the page as text.
import { h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);
export { render };
export * from "./vendor/hooks.mjs";
