// How did a request end? In a word, with a colour beside it.
import { html } from "../html.js";
import { Badge } from "../parts.js";
import { say } from "../strings.js";

const kinds = { completed: "good", cancelled: "", refused: "warn" };

export const Status = ({ row }) => html`<${Badge} kind=${kinds[row.status] ?? "bad"}>${say.statuses[row.status] ?? row.status}<//>`;
