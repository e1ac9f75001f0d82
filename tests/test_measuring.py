"""Does test_load.py measure what it says? Against streams whose times are known."""

import json
import time

import pytest
import requests

from support import Quiet, serving
from test_load import Answer, StreamReading, measure, spread, verdict

FIRST_SECONDS, GAP_SECONDS, TOKENS = 0.3, 0.02, 10


def event(delta=None, **more) -> bytes:
    choices = [{"index": 0, "delta": delta}] if delta is not None else []
    return b"data: " + json.dumps({"choices": choices} | more).encode()


def read(*lines: tuple[bytes, float]) -> Answer:
    reading = StreamReading(sent=100.0)
    for line, at in lines:
        reading.line(line, 100.0 + at)
    return reading.answer(100.0 + lines[-1][1])


USAGE = event(usage={"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})
DONE = b"data: [DONE]"


@pytest.mark.parametrize("part", [{"content": "a"}, {"reasoning": "a"}, {"tool_calls": [{"index": 0}]}])
def test_the_first_token_is_the_first_of_any_kind_and_no_role(part):
    answer = read(
        (event({"role": "assistant", "content": ""}), 1.0),
        (b": keep-alive", 2.0),
        (event(part), 3.0),
        (event({"content": "b"}), 4.0),
        # The end, the usage and [DONE] are no tokens.
        (event({}), 9.0),
        (USAGE, 9.0),
        (DONE, 9.0),
    )
    assert (answer.ttft, answer.total, answer.tokens, answer.failure) == (3.0, 9.0, 5, None)
    # Five tokens, as the node says, though they came in two chunks.
    assert answer.tpot == pytest.approx((4.0 - 3.0) / 4)


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        ([(event({"content": "a"}), 1.0), (USAGE, 1.0)], "without [DONE]"),
        ([(event({"content": "a"}), 1.0), (DONE, 1.0)], "without usage"),
        ([(event({"content": "a"}), 1.0), (b'data: {"error":{"message":"broke"}}', 1.0)], "broke"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure(lines, failure):
    answer = read(*lines)
    assert failure in answer.failure
    assert (answer.ttft, answer.tpot, answer.tokens) == (None, None, 0)


def test_more_than_one_in_a_hundred_is_too_much():
    assert [verdict(100, 1), verdict(100, 2), verdict(0, 0)] == [0, 1, 1]


def test_percentiles_are_of_what_is_known():
    assert spread([None, *(number / 1000 for number in range(1, 101))], "ms") == "50.5 / 96.0 ms"
    assert spread([None], "ms") == "-"


class Scripted(Quiet):
    """The head and the role at once, the first token after 300 ms, then one every 20 ms; far less than 1 KB in all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/busy":
            self.send_response(503)
            self.send_header("Retry-After", "86400")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        is_chunked = self.path == "/chunked"
        self.send_response(200)
        self.send_header("Transfer-Encoding" if is_chunked else "Connection", "chunked" if is_chunked else "close")
        self.end_headers()
        self.say(event({"role": "assistant"}), is_chunked)
        time.sleep(FIRST_SECONDS)
        for _ in range(TOKENS):
            self.say(event({"content": "a"}), is_chunked)
            time.sleep(GAP_SECONDS)
        self.say(event(usage={"completion_tokens": TOKENS}), is_chunked)
        self.say(DONE, is_chunked)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def say(self, line: bytes, is_chunked: bool):
        data = line + b"\n\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n" if is_chunked else data)


@pytest.fixture(scope="module")
def scripted():
    with serving(Scripted) as url:
        yield url


@pytest.mark.parametrize("body", ["chunked", "unchunked"])
def test_small_events_are_timed_one_by_one(scripted, body):
    sent = time.perf_counter()
    with requests.get(f"{scripted}/{body}", stream=True, timeout=10) as response:
        answer = measure(response, sent, stream=True)
    print(f"\n{body}: TTFT {answer.ttft * 1000:.1f} ms, TPOT {answer.tpot * 1000:.2f} ms")
    assert answer.failure is None
    # Reading by the kilobyte would give about 500 ms and 0 ms here.
    assert FIRST_SECONDS <= answer.ttft < FIRST_SECONDS + 0.15
    assert GAP_SECONDS * 0.9 <= answer.tpot < GAP_SECONDS * 2


def test_a_refusal_is_no_failure_and_a_short_pause(scripted):
    with requests.get(f"{scripted}/busy", stream=True, timeout=10) as response:
        answer = measure(response, time.perf_counter(), stream=True)
    assert (answer.refused, answer.failure) == (True, None)
    assert 0 < answer.pause < 10
