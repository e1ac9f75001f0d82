"""A node that is slow or breaks, for what the demo's nodes never do. Its models are `waits` and `breaks`.

`waits` says nothing for longer than the gateway holds a status back, and then answers whole; `breaks` sends three
tokens and closes the connection. Both only stream. Prints its port.
"""

import http.server
import json
import time

SILENCE = 3.2
WORDS = {"waits": ["worth", " the", " wait"], "breaks": ["one", " two", " three"]}


def model(name: str) -> dict:
    details = {"format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "1B"}
    full = f"{name}:latest"
    return {
        "name": full,
        "model": full,
        "modified_at": "2026-11-01T12:00:00Z",
        "size": 1000,
        "digest": "ab",
        "details": details,
    }


MODELS = [model(name) for name in WORDS]
# Both are in memory from the start.
PROBES = {
    "/api/version": {"version": "0.33.0"},
    "/api/ps": {"models": [entry | {"size_vram": 1000, "expires_at": "2999-01-01T00:00:00Z"} for entry in MODELS]},
    "/api/tags": {"models": MODELS},
}
# To a request without a prompt, with which a model is loaded and kept.
LOADED = {"model": "m", "created_at": "2026-11-23T07:00:00Z", "response": "", "done": True, "done_reason": "load"}


def data(value: dict, name: str | None = None) -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n"


def chat_completions(words: list[str]):
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1790000000, "model": "m"}

    def choice(delta, reason=None):
        return data(chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
    yield from (choice({"role": "assistant", "content": word}) for word in words)
    yield choice({}, "stop") + data(chunk | {"choices": [], "usage": usage}) + "data: [DONE]\n\n"


def chat(words: list[str]):
    line = {"model": "m", "created_at": "2026-11-23T07:00:00.123456789Z"}

    def write(content, **rest):
        return json.dumps(line | {"message": {"role": "assistant", "content": content}, "done": False} | rest) + "\n"

    yield from map(write, words)
    yield write("", done=True, done_reason="stop", prompt_eval_count=5, eval_count=len(words))


def messages(words: list[str]):
    def event(name, **rest):
        return data({"type": name} | rest, name)

    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": 5, "output_tokens": 0}
    start = event("message_start", message=message | {"stop_reason": None, "stop_sequence": None, "usage": usage})
    yield start + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for word in words:
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield (
        event("content_block_stop", index=0)
        + event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"input_tokens": 5, "output_tokens": len(words)},
        )
        + event("message_stop")
    )


STREAMS = {
    "/v1/chat/completions": ("text/event-stream", chat_completions),
    "/v1/messages": ("text/event-stream", messages),
    "/api/chat": ("application/x-ndjson", chat),
}


class Node(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(json.dumps(PROBES.get(self.path, {})).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/generate" and not body.get("prompt"):
            self.answer(json.dumps(LOADED).encode())
            return
        name = body["model"].removesuffix(":latest")
        kind, stream = STREAMS[self.path]
        if name == "waits":
            time.sleep(SILENCE)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        parts = list(stream(WORDS[name]))
        for part in parts[:-1] if name == "breaks" else parts:
            encoded = part.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(encoded), encoded))
            self.wfile.flush()
            time.sleep(0.05)
        if name == "breaks":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def answer(self, body: bytes):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        # Somebody hung up.
        pass


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Node)
    print(server.server_address[1], flush=True)
    server.serve_forever()
