// Which keys do what? `g` and a letter go to a page, `/` to the search, `?` lists them.
import { useEffect, useRef } from "./html.js";

/** Calls `go(letter)`, `search()` and `help()`, never while somebody writes. */
export function useKeys({ go, search, help }) {
  const waiting = useRef(0);
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target)) return;
      if (document.querySelector("dialog[open]")) return;
      const follows = Date.now() - waiting.current < 1500;
      waiting.current = 0;
      if (follows && go(event.key)) return event.preventDefault();
      if (event.key === "g") waiting.current = Date.now();
      else if (event.key === "/" && search()) event.preventDefault();
      else if (event.key === "?") help();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
}

const isWriting = (target) => target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName ?? "");
