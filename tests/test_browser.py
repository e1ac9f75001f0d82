"""A page of another origin in a real browser: may it ask, read streams and errors, and not reach the admin?

Line 20 of the clients' checklist. Needs Chromium.
"""

import http.server
import json
import shutil
import subprocess
import tempfile
import threading

import pytest

from support import Quiet

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing that would ask anybody but the gateway.
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const { gateway, key } = %s;
const chat = (body) => ({ model: "llama3.2", messages: [{ role: "user", content: "[[n=3]]" }], ...body });
async function ask(path, { key: given = key, headers = {}, ...options } = {}) {
  try {
    const response = await fetch(gateway + path, { headers: { authorization: `Bearer ${given}`, ...headers }, ...options });
    const readable = (name) => response.headers.get(name);
    return {
      status: response.status, text: await response.text(),
      id: readable("x-request-id"), node: readable("x-gateway-node"), left: readable("x-ratelimit-remaining-requests"),
    };
  } catch (error) {
    return { blocked: error.name };
  }
}
const json = { "content-type": "application/json", "x-stainless-lang": "js", "x-stainless-retry-count": "0" };
const post = (path, body, more = {}) => ask(path, { method: "POST", headers: json, body: JSON.stringify(body), ...more });
const results = {
  models: await ask("/v1/models"),
  plain: await post("/v1/chat/completions", chat()),
  stream: await post("/v1/chat/completions", chat({ stream: true })),
  native: await post("/api/chat", chat()),
  anthropic: await post("/v1/messages", chat({ max_tokens: 5 }),
    { headers: { ...json, "anthropic-version": "2023-06-01", "anthropic-dangerous-direct-browser-access": "true" } }),
  wrong: await post("/v1/chat/completions", chat(), { key: "sk-wrong" }),
  missing: await post("/v1/chat/completions", chat({ model: "nothere" })),
  admin: await ask("/admin/users"),
};
await fetch("/results", { method: "POST", body: JSON.stringify(results) });
</script>"""


class Site(http.server.ThreadingHTTPServer):
    """The page's own origin, to which it reports."""

    def __init__(self, page: str):
        super().__init__(("127.0.0.1", 0), Visit)
        self.page = page.encode()
        self.results = None
        self.reported = threading.Event()


class Visit(Quiet):
    def do_GET(self):
        self.answer(200 if self.path == "/" else 404, self.server.page if self.path == "/" else b"")

    def do_POST(self):
        self.server.results = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, b"")
        self.server.reported.set()

    def answer(self, status: int, body: bytes):
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def visit(page: str) -> dict:
    """What the page reports, within a minute."""
    with Site(page) as site, tempfile.TemporaryDirectory() as profile, tempfile.TemporaryFile() as log:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{site.server_address[1]}/"
        command = [BROWSER, *QUIET, f"--user-data-dir={profile}", url]
        browser = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if not site.reported.wait(timeout=60):
                log.seek(0)
                pytest.fail("the page did not report: " + log.read().decode(errors="replace")[-2000:])
            return site.results
        finally:
            browser.terminate()
            try:
                browser.wait(timeout=10)
            except subprocess.TimeoutExpired:
                browser.kill()
                browser.wait()
            site.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_page_of_another_origin_works_in_a_browser(gateway):
    with gateway.user(requests_per_minute=100) as (_, key):
        given = json.dumps({"gateway": gateway.url, "key": key})
        results = visit(PAGE % given)

    for name in ["models", "plain", "stream", "native", "anthropic"]:
        assert results[name].get("status") == 200, (name, results[name])
        assert results[name]["id"], name
    for name in ["plain", "stream", "native", "anthropic"]:
        # Headers that a page may read only where it is told so.
        assert results[name]["node"] and results[name]["left"], name
    assert results["stream"]["text"].endswith("data: [DONE]\n\n")
    assert json.loads(results["native"]["text"].splitlines()[-1])["done"]
    assert (results["wrong"]["status"], results["missing"]["status"]) == (401, 404)
    assert json.loads(results["wrong"]["text"])["error"]["code"] == "invalid_api_key"
    assert results["admin"] == {"blocked": "TypeError"}, "no page may call the admin"
