"""An Ollama in front of a llama.cpp server: the native pages that a gateway asks for, and OpenAI's routes passed on.

Real Ollama is the same thing: its models run in llama.cpp's server.
"""

import contextlib
import http.client
import json

from support import Quiet, serving

HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


class Front(Quiet):
    protocol_version = "HTTP/1.1"
    # Of the engine behind it.
    port = 0
    model = ""

    def do_GET(self):
        try:
            # The front lives and stops with its engine.
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as engine:
                engine.request("GET", "/health")
                engine.getresponse().read()
            self.page()
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    def page(self):
        name = f"{self.model}:latest"
        entry = {"name": name, "model": name, "digest": "a" * 64, "details": {"family": "gemma3"}}
        size = 246_587_904
        pages = {
            "/": "Ollama is running",
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": [entry | {"size": size, "modified_at": "2026-08-20T10:11:12Z"}]},
            "/api/ps": {"models": [entry | {"size": size, "size_vram": 0, "expires_at": "2318-01-01T00:00:00Z"}]},
        }
        self.answer(200 if self.path in pages else 404, pages.get(self.path, "404 page not found"))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/show":
            return self.answer(200, {"modelfile": f"FROM /blobs/sha256-{'b' * 64}\n", "capabilities": ["completion"]})
        if not self.path.startswith("/v1/"):
            # Loads and unloads: the model is always in memory.
            return self.answer(200, {"model": self.model, "done": True, "done_reason": "load"})
        return self.relay(body)

    def relay(self, body: bytes):
        engine = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(engine):
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                engine.request("POST", self.path, body, headers)
                reply = engine.getresponse()
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers["Content-Type"])
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while piece := reply.read1(65536):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
            except (OSError, http.client.HTTPException):
                # Either side is gone; closing tells the other.
                self.close_connection = True

    def answer(self, status: int, body):
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def front(port: int, model: str):
    """Its URL, as long as it is there."""
    return serving(type("FrontOf", (Front,), {"port": port, "model": model}))
