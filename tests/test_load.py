"""How fast is the gateway under many users? Two ways to ask, with the same measuring.

    python tests/test_load.py            a quick check of about 10 s; exit code 1 if more than 1 % fail
    locust -f tests/test_load.py --host=http://localhost:8000 --users=100 --spawn-rate=10

The key is TEST_API_KEY's. Without it a user is made with ADMIN_API_KEY (default: the demo's) and deleted afterwards.
The model is TEST_MODEL (default llama3.2).

What is measured, at the client:

* TTFT, time to first token: from sending the request to the first text, reasoning or tool call. A chunk that holds
  only the role does not count. Waiting for a slot does.
* TPOT, time per output token: (last token - first token) / (tokens - 1), with the number of tokens as the node reports
  it. Other tools divide the whole time by the tokens, or call something else so.
* 429 and 503 are refusals, and no failures: to refuse in time is what a gateway under too much load should do.
* A stream that holds an error, or ends without [DONE] or usage, is a failure, whatever its status code was.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import threading
import time
import uuid

import requests

from support import CHAT_MODEL, DEFAULT_URL, Gateway

MAX_TOKENS = 64
REFUSALS = (429, 503)
MOST_FAILURES = 0.01
TIMEOUT_SECONDS = 300
# A user who is refused comes back when told to, but within the test.
LONGEST_PAUSE_SECONDS = 2.0


@dataclasses.dataclass
class Answer:
    """What became of one request. Times are in seconds."""

    stream: bool
    total: float
    ttft: float | None = None
    tpot: float | None = None
    tokens: int = 0
    failure: str | None = None
    refused: bool = False
    pause: float = 0.0


class StreamReading:
    """Follows one stream line by line; `now` and `sent` are on the same clock."""

    def __init__(self, sent: float):
        self.sent = sent
        self.first = self.last = None
        self.tokens: int | None = None
        self.failure: str | None = None
        self.done = False

    def line(self, line: bytes, now: float):
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if error := event.get("error"):
            self.failure = f"error in the stream: {error.get('message', error)}"
            return
        if usage := event.get("usage"):
            self.tokens = usage["completion_tokens"]
        if any(_has_token(choice.get("delta") or {}) for choice in event.get("choices") or []):
            self.first = self.first or now
            self.last = now

    def answer(self, now: float) -> Answer:
        answer = Answer(stream=True, total=now - self.sent, failure=self.failure)
        if not self.failure and not self.done:
            answer.failure = "the stream ended without [DONE]"
        elif not self.failure and not self.tokens:
            answer.failure = "the stream ended without usage"
        if answer.failure:
            return answer
        answer.tokens = self.tokens
        if self.first is not None:
            answer.ttft = self.first - self.sent
            if self.tokens > 1:
                answer.tpot = (self.last - self.first) / (self.tokens - 1)
        return answer


def _has_token(delta: dict) -> bool:
    return any(delta.get(part) for part in ("content", "reasoning", "reasoning_content", "tool_calls"))


def measure(response: requests.Response, sent: float, stream: bool) -> Answer:
    """Reads an answer whose head is here."""
    try:
        if response.status_code in REFUSALS:
            # Some refusals say "tomorrow".
            told = int(response.headers.get("retry-after", 1))
            pause = min(told, LONGEST_PAUSE_SECONDS)
            response.content  # noqa: B018 - read, so that the connection can be used again
            return Answer(stream, time.perf_counter() - sent, refused=True, pause=pause)
        if response.status_code != 200:
            detail = getattr(response, "error", None) or response.text[:200]
            return Answer(stream, time.perf_counter() - sent, failure=f"status {response.status_code}: {detail}")
        if stream:
            return _read_stream(response, sent)
        usage = response.json()["usage"]
        return Answer(stream, time.perf_counter() - sent, tokens=usage["completion_tokens"])
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        return Answer(stream, time.perf_counter() - sent, failure=f"{type(error).__name__}: {error}"[:200])


def _read_stream(response: requests.Response, sent: float) -> Answer:
    reading = StreamReading(sent)
    # Of a chunked body every chunk is handed over as it comes, however large a piece was asked for. Of any other body a
    # piece is waited for until it is full, which makes the first token late and the rest of them fast.
    size = 8192 if getattr(response.raw, "chunked", False) else 1
    for line in response.iter_lines(chunk_size=size):
        reading.line(line, time.perf_counter())
    return reading.answer(time.perf_counter())


def request_of(stream: bool) -> dict:
    """A chat that no other request resembles, so that no node has its prompt cached."""
    prompt = f"{uuid.uuid4().hex}: tell me about something that these letters bring to your mind."
    body = {"model": CHAT_MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": prompt}]}
    return body | {"stream": True, "stream_options": {"include_usage": True}} if stream else body


def is_plain(number: int) -> bool:
    """Every fourth request is a plain one."""
    return number % 4 == 3


# The quick check


class Visitor(threading.Thread):
    """One user who asks, waits for the whole answer, and asks again until the time is over."""

    def __init__(self, gateway: Gateway, key: str, number: int, rounds):
        super().__init__(daemon=True)
        self.gateway, self.number, self.rounds = gateway, number, rounds
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {key}"
        self.answers: list[Answer] = []

    def run(self):
        for step in self.rounds():
            answer = self.ask(stream=not is_plain(self.number + step))
            self.answers.append(answer)
            time.sleep(answer.pause)

    def ask(self, stream: bool) -> Answer:
        sent = time.perf_counter()
        url = f"{self.gateway.api}/chat/completions"
        try:
            with self.session.post(url, json=request_of(stream), stream=True, timeout=TIMEOUT_SECONDS) as response:
                return measure(response, sent, stream)
        except requests.RequestException as error:
            return Answer(stream, time.perf_counter() - sent, failure=type(error).__name__)


def visit(gateway: Gateway, key: str, users: int, rounds) -> tuple[list[Answer], float]:
    """All users at once; their answers, and how long it took in seconds."""
    visitors = [Visitor(gateway, key, number, rounds) for number in range(users)]
    began = time.perf_counter()
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return [answer for visitor in visitors for answer in visitor.answers], time.perf_counter() - began


def until(deadline: float):
    """Numbers, as long as there is time."""
    step = 0
    while time.perf_counter() < deadline:
        yield step
        step += 1


def quick_check(gateway: Gateway, users: int, seconds: float) -> int:
    """Prints what it measured; the exit code."""
    with gateway.key() as key:
        # Excluded: whoever comes first waits for the nodes to load the model.
        visit(gateway, key, users, lambda: range(1))
        deadline = time.perf_counter() + seconds
        answers, elapsed = visit(gateway, key, users, lambda: until(deadline))
    print(table(answers, elapsed, users))
    return verdict(len(answers), sum(1 for answer in answers if answer.failure))


def verdict(requests_made: int, failures: int) -> int:
    return 1 if requests_made == 0 or failures > MOST_FAILURES * requests_made else 0


def table(answers: list[Answer], elapsed: float, users: int) -> str:
    good = [answer for answer in answers if not answer.failure and not answer.refused]
    failed = [answer.failure for answer in answers if answer.failure]
    rows = [
        ("requests", f"{len(answers)} by {users} users in {elapsed:.1f} s ({len(answers) / elapsed:.1f}/s)"),
        ("  streams", str(sum(1 for answer in good if answer.stream))),
        ("  plain", str(sum(1 for answer in good if not answer.stream))),
        ("failures", str(len(failed))),
        ("refusals (429, 503)", str(sum(1 for answer in answers if answer.refused))),
        ("TTFT p50 / p95", spread([answer.ttft for answer in good], "ms")),
        ("TPOT p50 / p95", spread([answer.tpot for answer in good], "ms/token")),
        ("plain answer p50 / p95", spread([answer.total for answer in good if not answer.stream], "ms")),
        ("output", f"{sum(answer.tokens for answer in good) / elapsed:.0f} tokens/s"),
    ]
    lines = [f"{name:<24}{value}" for name, value in rows]
    return "\n".join(lines + [f"  {failed.count(one)} x {one}" for one in sorted(set(failed))])


def spread(seconds: list[float | None], unit: str) -> str:
    known = sorted(one * 1000 for one in seconds if one is not None)
    if not known:
        return "-"
    middle, high = statistics.median(known), known[min(len(known) - 1, int(len(known) * 0.95))]
    return f"{middle:.1f} / {high:.1f} {unit}"


def main() -> int:
    parser = argparse.ArgumentParser(description="A quick look at how fast the gateway is.")
    parser.add_argument("--host", default=DEFAULT_URL, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=6, help="users at a time; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long they ask; default: %(default)s")
    arguments = parser.parse_args()
    try:
        return quick_check(Gateway(arguments.host), arguments.users, arguments.seconds)
    except (requests.RequestException, RuntimeError) as error:
        print(f"{arguments.host}: {error}", file=sys.stderr)
        return 1


# Locust. Importing it changes how sockets work everywhere, so nobody else here must: it is there only if it reads this.
if "locust" in sys.modules:
    from locust import HttpUser, between, events, task
    from locust.runners import MasterRunner

    STREAM, PLAIN, REFUSED = "chat (full stream)", "chat (plain)", "refused (429, 503)"
    LEFT, MAX_TURNS = "chat (left early)", 5
    TTFT, TPOT = "TTFT (ms)", "TPOT (ms/token)"
    keeping = contextlib.ExitStack()
    keys: list[str] = []

    class ChatUser(HttpUser):
        """Has a conversation; asks for streams mostly."""

        abstract = True
        host = DEFAULT_URL
        wait_time = between(0.1, 1.0)

        def ask(self, stream: bool, body: dict | None = None):
            sent = time.perf_counter()
            with self.client.post(
                "/v1/chat/completions",
                name=STREAM if stream else PLAIN,
                json=body or request_of(stream),
                headers={"Authorization": f"Bearer {keys[0]}"},
                stream=True,
                catch_response=True,
                timeout=TIMEOUT_SECONDS,
            ) as response:
                answer = measure(response, sent, stream)
                self.report(response, answer)
            time.sleep(answer.pause)

        def report(self, response, answer: Answer):
            # Locust's own time ends with the head. The length is in tokens, so that "Average size" is tokens an answer.
            response.request_meta["response_time"] = answer.total * 1000
            response.request_meta["response_length"] = answer.tokens
            if answer.failure:
                response.failure(answer.failure)
                return
            if answer.refused:
                response.request_meta["name"] = REFUSED
            response.success()
            for name, seconds in [(TTFT, answer.ttft), (TPOT, answer.tpot)]:
                if seconds is not None:
                    self.environment.events.request.fire(
                        request_type="LLM",
                        name=name,
                        response_time=seconds * 1000,
                        response_length=0,
                        exception=None,
                        context={},
                    )

    class StreamingUser(ChatUser):
        weight = 3

        @task
        def stream(self):
            self.ask(stream=True)

    class PlainUser(ChatUser):
        weight = 1

        @task
        def plain(self):
            self.ask(stream=False)

    class TalkingUser(ChatUser):
        """Stays with one conversation, which grows, and reads each answer before going on."""

        weight = 2
        wait_time = between(1, 4)

        def on_start(self):
            self.said = []

        @task
        def go_on(self):
            body = request_of(stream=True)
            self.said = self.said[-2 * MAX_TURNS:] + body["messages"]
            self.ask(stream=True, body=body | {"messages": self.said})
            self.said = [*self.said, {"role": "assistant", "content": "It brings a river to mind."}]

    class ImpatientUser(ChatUser):
        """Hangs up after the first event, as people do who see that they asked for the wrong thing."""

        weight = 1

        @task
        def leave(self):
            headers = {"Authorization": f"Bearer {keys[0]}"}
            with self.client.post("/v1/chat/completions", name=LEFT, json=request_of(stream=True), headers=headers,
                                  stream=True, catch_response=True, timeout=TIMEOUT_SECONDS) as response:
                if response.status_code in (429, 503):
                    response.request_meta["name"] = REFUSED
                elif response.status_code == 200:
                    next(response.iter_lines(chunk_size=1), None)
                response.success() if response.status_code in (200, 429, 503) else response.failure(response.text[:200])
                response.close()

    @events.test_start.add_listener
    def get_key(environment, **_):
        # A master asks nothing itself.
        if isinstance(environment.runner, MasterRunner):
            return
        gateway = Gateway(environment.host or DEFAULT_URL)
        try:
            keys[:] = [keeping.enter_context(gateway.key())]
        except (requests.RequestException, RuntimeError) as error:
            # Ends all of locust, which would otherwise run without asking anything.
            sys.exit(f"{gateway.url}: {error}")

    @events.test_stop.add_listener
    def give_key_back(environment, **_):
        keeping.close()

    @events.quitting.add_listener
    def summarise(environment, **_):
        stats = environment.stats
        stream, plain, refused, left = (stats.get(name, "POST") for name in (STREAM, PLAIN, REFUSED, LEFT))
        ttft, tpot = stats.get(TTFT, "LLM"), stats.get(TPOT, "LLM")
        made = stream.num_requests + plain.num_requests + refused.num_requests + left.num_requests
        failures = stream.num_failures + plain.num_failures + left.num_failures
        tokens = stream.total_content_length + plain.total_content_length
        seconds = max(stats.total.last_request_timestamp or 0, stats.start_time) - stats.start_time
        print(f"\nrequests {made}, failures {failures}, refusals (429, 503) {refused.num_requests}, "
              f"left early {left.num_requests}")
        for name, row in [(TTFT, ttft), (TPOT, tpot)]:
            # Locust keeps percentiles in whole milliseconds; the mean is exact.
            half, most = (row.get_response_time_percentile(share) for share in (0.5, 0.95))
            print(f"{name}: mean {row.avg_response_time:.1f}, p50 {half:.0f}, p95 {most:.0f}")
        print(f"output {tokens / seconds if seconds else 0:.0f} tokens/s")
        environment.process_exit_code = verdict(made, failures)


if __name__ == "__main__":
    sys.exit(main())
