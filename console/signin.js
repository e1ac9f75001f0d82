// How does somebody sign in? With a key that is sent once.
import { html, useEffect } from "./html.js";
import { Field, Form } from "./parts.js";
import { signIn } from "./session.js";
import { say } from "./strings.js";

export function SignIn({ done, notice }) {
  useEffect(() => document.getElementById("f-key").focus(), []);
  const submit = async (data, form) => {
    const session = await signIn(data.get("key").trim());
    form.reset();
    done(session);
  };
  return html`<main class="sign-in">
    <h1>${say.name}</h1>
    ${notice && html`<p role="status">${notice}</p>`}
    <${Form} submit=${submit} action=${say.signIn.action}>
      <${Field} label=${say.signIn.key} hint=${say.signIn.hint} name="key" type="password" required autocomplete="off" spellcheck=${false} wide />
    <//>
  </main>`;
}
