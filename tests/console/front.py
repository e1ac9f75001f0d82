"""A reverse proxy in front of the gateway, as people have one: under a prefix, and its connections can be cut."""

import http.client
import http.server
import threading
import urllib.parse

from support import Quiet

PREFIX = "/team/llm"
# What belongs to one connection and not to what it carries.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Front(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, gateway: str):
        super().__init__(("127.0.0.1", 0), Visit)
        self.gateway = urllib.parse.urlsplit(gateway).netloc
        self.console = f"http://127.0.0.1:{self.server_address[1]}{PREFIX}/console"
        self.up = threading.Event()
        self.up.set()
        # What is said in the place of the gateway's events, if anything is.
        self.events = None
        # Who listens to the gateway's events. Whoever has left is noticed at the next one.
        self.listeners = set()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Visit(Quiet):
    def pass_on(self):
        if not self.path.startswith(PREFIX + "/") or not self.server.up.is_set():
            self.send_error(502)
            return
        if self.server.events and self.path == f"{PREFIX}/admin/events":
            self.tell()
            return
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        connection = http.client.HTTPConnection(self.server.gateway, timeout=60)
        try:
            connection.request(self.command, self.path.removeprefix(PREFIX), body, headers)
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.end_headers()
            if self.path == f"{PREFIX}/admin/events":
                self.server.listeners.add(self)
            # As it comes, until it ends or the connections are cut.
            while self.server.up.is_set() and (chunk := answer.read1(65536)):
                self.wfile.write(chunk)
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.server.listeners.discard(self)
            connection.close()

    def tell(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for event in self.server.events():
                self.wfile.write(event)
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on
