// Which pages are there, for whom, and which letter goes to each? Each is loaded when it is first shown.
import { say } from "./strings.js";

const page = (name, letter, load) => ({ name, letter, title: say.pages[name], load });

export const adminPages = [
  page("now", "n", () => import("./pages/now.js")),
  page("requests", "r", () => import("./pages/requests.js")),
  page("users", "u", () => import("./pages/users.js")),
  page("groups", "g", () => import("./pages/groups.js")),
  page("models", "m", () => import("./pages/models.js")),
  page("usage", "s", () => import("./pages/usage.js")),
  page("admins", "a", () => import("./pages/admins.js")),
  page("changes", "c", () => import("./pages/changes.js")),
];

export const userPages = [page("me", "m", () => import("./pages/me.js"))];
