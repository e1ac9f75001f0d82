"""A node that answers as Ollama does, and whose model has a name that would do harm in a page that took it for markup."""

import json

from support import Quiet, serving

MARKUP = "<img/src=x/onerror=window.stolen=1>"

ANSWERS = {
    "/": "Ollama is running",
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {
        "models": [
            {"name": MARKUP, "model": MARKUP, "size": 1000, "digest": "0" * 64, "modified_at": "2026-01-01T00:00:00Z"}
        ]
    },
    "/api/ps": {
        "models": [
            {"name": MARKUP, "model": MARKUP, "size": 1000, "size_vram": 1000, "digest": "0" * 64,
             "expires_at": "2100-01-01T00:00:00Z", "context_length": 4096}
        ]
    },
}


class Node(Quiet):
    def do_GET(self):
        answer = ANSWERS.get(self.path.split("?")[0])
        body = (answer if isinstance(answer, str) else json.dumps(answer or {"error": MARKUP})).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


def evil_node():
    """Its URL, as long as it is there."""
    return serving(Node)
