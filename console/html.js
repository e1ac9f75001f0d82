// How is markup written? Tagged templates over Preact, which puts every value into the page as text.
import { Component, h, render } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);
export { render };

/** Shows `children()`, and calls it again only when `sign` is another. */
export class Still extends Component {
  shouldComponentUpdate(next) {
    return next.sign !== this.props.sign;
  }

  render({ children }) {
    return children();
  }
}
export * from "./vendor/hooks.mjs";
