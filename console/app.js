// The page as a whole: who is signed in decides which pages there are, the address which one is shown.
import { onSignedOut } from "./api.js";
import { html, render, useEffect, useState } from "./html.js";
import { useKeys } from "./keyboard.js";
import { adminPages, userPages } from "./pages.js";
import { Dialog, Failure } from "./parts.js";
import { go, link, useRoute } from "./router.js";
import { forget, resume, signOut } from "./session.js";
import { SignIn } from "./signin.js";
import { say } from "./strings.js";

function App() {
  const [state, set] = useState({});
  const show = (session) => set({ session });
  useEffect(() => {
    onSignedOut(() => {
      forget();
      set({ session: null, notice: say.signIn.ended });
    });
    resume().then(show, (error) => set({ error }));
  }, []);
  if (state.error) return html`<main><${Failure} error=${state.error} again=${() => location.reload()} /></main>`;
  if (state.session === undefined) return html`<main><p class="quiet" role="status">${say.loading}</p></main>`;
  if (!state.session) return html`<${SignIn} done=${show} notice=${state.notice} />`;
  return html`<${Shell} session=${state.session} leave=${() => show(null)} />`;
}

function Shell({ session, leave }) {
  const pages = session.kind === "admin" ? adminPages : userPages;
  const route = useRoute();
  const page = pages.find(({ name }) => name === route.page) ?? pages[0];
  const [helps, setHelps] = useState(false);
  const [error, setError] = useState(null);
  useEffect(() => {
    document.title = `${page.title} · ${say.name}`;
  }, [page]);
  useKeys({
    go: (letter) => {
      const to = pages.find((page) => page.letter === letter);
      if (to) go(to.name);
      return Boolean(to);
    },
    search: () => {
      const field = document.querySelector("[data-search]");
      field?.focus();
      return Boolean(field);
    },
    help: () => setHelps(true),
  });
  const out = () => signOut().then(leave, (error) => (error.status === 401 ? leave() : setError(error)));
  return html`
    <a class="skip" href="#main" onClick=${skip}>${say.skip}</a>
    <header class="top">
      <strong>${say.name}</strong>
      <nav aria-label=${say.pagesLabel}>
        ${pages.map(({ name, title }) => html`<a href=${link(name)} aria-current=${name === page.name ? "page" : undefined}>${title}</a>`)}
      </nav>
      <span class="who">${session.name}${session.role ? ` · ${say.roles[session.role] ?? session.role}` : ""}</span>
      <button type="button" onClick=${() => setHelps(true)} aria-label=${say.keys.title}>?</button>
      <button type="button" onClick=${out}>${say.signOut}</button>
    </header>
    <main id="main" tabindex="-1">
      ${error && html`<${Failure} error=${error} />`}
      <${Page} key=${page.name} page=${page} route=${route} session=${session} />
    </main>
    ${helps && html`<${Help} pages=${pages} close=${() => setHelps(false)} />`}`;
}

// The address of the page stands behind `#`, so that a link to an element would change the page.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Page({ page, route, session }) {
  const [state, set] = useState({});
  useEffect(() => {
    page.load().then((module) => set({ show: module.default }), () => set({ error: new Error(say.error.reload) }));
  }, []);
  if (state.error) return html`<${Failure} error=${state.error} again=${() => location.reload()} />`;
  if (!state.show) return html`<p class="quiet" role="status">${say.loading}</p>`;
  return html`<h1>${page.title}</h1><${state.show} route=${route} session=${session} />`;
}

function Help({ pages, close }) {
  const keys = [...pages.map(({ letter, title }) => [`g ${letter}`, title]), ["/", say.keys.search], ["?", say.keys.help], ["Esc", say.keys.close]];
  return html`<${Dialog} title=${say.keys.title} close=${close}>
    <dl class="pairs">${keys.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
  <//>`;
}

render(html`<${App} />`, document.getElementById("app"));
