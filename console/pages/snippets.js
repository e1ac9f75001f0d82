// How is a program told where the service is and with which key? Lines to paste, as docs/applications.md explains them.
import { html, useState } from "../html.js";
import { serviceUrl } from "../api.js";
import { Copy, Dialog } from "../parts.js";
import { say } from "../strings.js";

const snippets = (url, key, model) => [
  ["curl", `curl ${url}/v1/chat/completions -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d '{"model":"${model}","messages":[{"role":"user","content":"Why is the sky blue?"}]}'`],
  ["OpenAI SDK", `from openai import OpenAI

client = OpenAI(base_url="${url}/v1", api_key="${key}")
answer = client.chat.completions.create(
    model="${model}", messages=[{"role": "user", "content": "Why is the sky blue?"}]
)
print(answer.choices[0].message.content)`],
  ["Open WebUI", `OPENAI_API_BASE_URL=${url}/v1
OPENAI_API_KEY=${key}`],
  ["Continue", `name: gateway
version: 1.0.0
schema: v1
models:
  - name: ${model}
    provider: openai
    model: ${model}
    apiBase: ${url}/v1
    apiKey: ${key}
    roles: [chat, edit, apply]`],
  ["Claude Code", `export ANTHROPIC_BASE_URL=${url}
export ANTHROPIC_AUTH_TOKEN=${key}
export ANTHROPIC_MODEL=${model} ANTHROPIC_DEFAULT_HAIKU_MODEL=${model}
claude`],
  ["Codex", `# ~/.codex/config.toml
model = "${model}"
model_provider = "gateway"

[model_providers.gateway]
name = "gateway"
base_url = "${url}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"
stream_idle_timeout_ms = 600000

# and in the shell
export GATEWAY_KEY=${key}`],
  ["Ollama CLI", `OLLAMA_HOST=${url}/k/${key} ollama run ${model}`],
];

/** `secret` is a key, or what stands for one; `model` one that it may be used for. */
export function Snippets({ secret = "sk-…", model = "llama3.2" }) {
  const all = snippets(serviceUrl, secret, model);
  const [shown, show] = useState(all[0][0]);
  const [name, text] = all.find(([name]) => name === shown);
  return html`<div class="snippets">
    <div class="tabs" role="group" aria-label=${say.snippets.title}>${all.map(([each]) => html`<button key=${each} type="button"
      aria-pressed=${each === shown ? "true" : "false"} onClick=${() => show(each)}>${each}</button>`)}</div>
    <${Copy} key=${name} text=${text} label=${name} />
  </div>`;
}

/** A new key, shown this once; with `programs`, also how programs are told it. */
export function KeyShown({ title, secret, close, programs = true }) {
  const [shows, set] = useState(false);
  return html`<${Dialog} title=${title} close=${close} wide>
    <p>${say.keysOf.once}</p>
    <${Copy} text=${secret} label=${say.keysOf.secret} />
    ${!programs ? null : shows ? html`<${Snippets} secret=${secret} />` : html`<button type="button" onClick=${() => set(true)}>${say.snippets.show}</button>`}
    <div class="actions"><button type="button" class="primary" onClick=${close}>${say.keysOf.kept}</button></div>
  <//>`;
}
