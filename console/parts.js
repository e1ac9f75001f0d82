// What do pages have in common? Errors, fields, dialogs, bars, tables.
import { html, useEffect, useRef, useState } from "./html.js";
import { compact, number, percent } from "./format.js";
import { say } from "./strings.js";

/** An error in words, with a way to try again where there is one. */
export function Failure({ error, again }) {
  return html`<p class="failure" role="alert">
    ${error.message} ${again && html`<button type="button" onClick=${again}>${say.again}</button>`}
  </p>`;
}

export function Field({ label, hint, name, wide, children, ...input }) {
  const id = `f-${name}`;
  const control = children ?? html`<input id=${id} name=${name} aria-describedby=${hint && `${id}-hint`} ...${input} />`;
  return html`<div class=${wide ? "field wide" : "field"}>
    <label for=${id}>${label}</label>${control}${hint && html`<small id=${`${id}-hint`}>${hint}</small>`}
  </div>`;
}

export function Select({ label, name, options, ...input }) {
  return html`<${Field} label=${label} name=${name}>
    <select id=${`f-${name}`} name=${name} ...${input}>
      ${options.map(([value, text]) => html`<option value=${value} selected=${value === input.value}>${text}</option>`)}
    </select>
  <//>`;
}

/** A form that says what went wrong, and cannot be sent twice at a time. `submit` gets its values as a FormData. */
export function Form({ submit, action, danger, cancel, children }) {
  const [state, set] = useState({});
  const onSubmit = async (event) => {
    event.preventDefault();
    if (state.busy) return;
    const form = event.currentTarget;
    set({ busy: true });
    try {
      await submit(new FormData(form), form);
      set({});
    } catch (error) {
      set({ error });
    }
  };
  return html`<form onSubmit=${onSubmit}>
    ${children} ${state.error && html`<${Failure} error=${state.error} />`}
    <div class="actions">
      ${cancel && html`<button type="button" onClick=${cancel}>${say.cancel}</button>`}
      <button class=${danger ? "danger" : "primary"} aria-disabled=${state.busy ? "true" : undefined}>${action}</button>
    </div>
  </form>`;
}

/** A modal dialog; Escape closes it, and the focus returns to where it was. */
export function Dialog({ title, close, children, wide }) {
  const ref = useRef();
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      // Nothing outside can have the focus while it is open.
      dialog.close();
      if (before?.isConnected) before.focus();
    };
  }, []);
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-labelledby="dialog-title" onCancel=${(event) => {
    event.preventDefault();
    close();
  }}>
    <header><h2 id="dialog-title">${title}</h2>
      <button type="button" class="plain" aria-label=${say.close} onClick=${close}>✕</button></header>
    ${children}
  </dialog>`;
}

/** Asks before something is done that cannot be taken back; `done` follows it, `close` leaves it. */
export function Confirm({ title, text, action, act, close, done = close, children }) {
  const submit = async (data) => {
    await act(data);
    done();
  };
  return html`<${Dialog} title=${title} close=${close}>
    <${Form} submit=${submit} action=${action} danger cancel=${close}>${text && html`<p>${text}</p>`}${children}<//>
  <//>`;
}

/** How much of a limit is used; without a limit only how much. */
export function Bar({ label, used, limit, write = compact }) {
  const known = limit !== null && limit !== undefined;
  const share = known ? (limit ? used / limit : 1) : 0;
  const text = known ? say.of(write(used), write(limit)) : say.noLimit(write(used));
  return html`<div class="bar">
    <span>${label}</span>
    ${known && html`<meter min="0" max="1" low="0.7" high="0.9" optimum="0" value=${Math.min(share, 1)} aria-label=${label}></meter>`}
    <span class="figures">${text}${known && share >= 0.9 ? ` · ${percent(share)}` : ""}</span>
  </div>`;
}

/** A table: `columns` are `[heading, cell(row), "number"?]`; `empty` is said where there is no row. */
export function Table({ caption, columns, rows, rowKey, empty, rowClass }) {
  if (!rows.length) return html`<p class="quiet">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${caption}>
    <table>
      <caption class="hidden">${caption}</caption>
      <thead><tr>${columns.map(([heading, , kind]) => html`<th scope="col" class=${kind}>${heading}</th>`)}</tr></thead>
      <tbody>${rows.map((row, index) => html`<tr key=${rowKey ? rowKey(row) : index} class=${rowClass?.(row)}>
        ${columns.map(([, cell, kind]) => html`<td class=${kind}>${cell(row)}</td>`)}
      </tr>`)}</tbody>
    </table>
  </div>`;
}

/** A table of which the first rows are shown, and the rest where it is asked for. */
export function LongTable({ rows, ...rest }) {
  const [all, set] = useState(false);
  return html`<${Table} rows=${all ? rows : rows.slice(0, FIRST)} ...${rest} />
    ${rows.length > FIRST && html`<button type="button" onClick=${() => set(!all)}>${all ? say.fewer : say.all(number(rows.length))}</button>`}`;
}

const FIRST = 50;

export function More({ list }) {
  const [busy, set] = useState(false);
  if (!list.more) return null;
  const more = () => {
    set(true);
    list.more().finally(() => set(false));
  };
  return html`<button type="button" disabled=${busy} onClick=${more}>${say.more}</button>`;
}

/** A secret or a snippet, with a button to copy it. */
export function Copy({ text, label }) {
  const [done, set] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      set(true);
    } catch {
      // Without permission, or over plain HTTP: it can still be selected by hand.
      set(false);
    }
  };
  return html`<div class="copy">
    <pre tabindex="0" aria-label=${label}>${text}</pre>
    <button type="button" onClick=${copy}>${done ? say.copied : say.copy}</button>
  </div>`;
}

/** A sign that is not told by its colour alone. */
export function Badge({ kind, children }) {
  return html`<span class=${`badge ${kind}`}>${children}</span>`;
}

export const Count = ({ of }) => html`<span class="count">${number(of)}</span>`;

const kinds = { completed: "good", cancelled: "", refused: "warn" };

/** How a request ended: in a word, with a colour beside it. */
export const Status = ({ row }) => html`<${Badge} kind=${kinds[row.status] ?? "bad"}>${say.statuses[row.status] ?? row.status}<//>`;
