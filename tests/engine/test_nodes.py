"""Does the gateway learn real engines right, stop them, and get over their ends?"""

import concurrent.futures
import contextlib
import pathlib
import statistics
import threading
import time
import warnings

import engines as real
import pytest
import requests
from engines import SLOTS, chat, events

from support import wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture
def chatters(engines):
    """The engines that chat. Each is well again after the test."""
    chatting = {name: engines[name] for name in SLOTS}
    yield chatting
    for engine in chatting.values():
        if engine.process is None:
            engine.start()
        else:
            engine.thaw()


@pytest.fixture
def own_fleet(kind, chatters):
    """A gateway of the test's own that knows nothing yet and gives a silent node up soon."""
    relay = {"chunk_gap_seconds": 4, "first_byte_seconds": 20}
    with real.fleet(kind, chatters, relay=relay) as started:
        yield started


def many(fleet, count: int, at_once: int, tokens: int = 4) -> list[requests.Response]:
    """So many answers, so many of them at once."""
    ask = lambda number: fleet.post(CHAT, chat(f"Tell me about the number {number}.", tokens))
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(ask, range(count)))


def opened(fleet, prompt: str, tokens: int):
    """A stream that has said its first word."""
    response = fleet.post(CHAT, chat(prompt, tokens, stream=True, ignore_eos=True), stream=True)
    assert response.status_code == 200, response.text
    rest = events(response)
    next(rest)
    return response, rest


def test_a_client_that_leaves_stops_the_engine(own_fleet, chatters):
    response, rest = opened(own_fleet, "Tell me a very long story.", 1500)
    for _ in range(5):
        next(rest)
    engine = chatters[response.headers["x-gateway-node"]]
    assert engine.busy() == 1
    response.close()
    wait_until("the engine has stopped", lambda: engine.busy() == 0, seconds=5)


def test_more_requests_than_slots_are_all_answered_and_none_waits_in_an_engine(own_fleet, chatters):
    answers = many(own_fleet, 30, at_once=18)
    assert [answer.status_code for answer in answers] == [200] * 30
    used = {answer.headers["x-gateway-node"] for answer in answers}
    assert used == set(SLOTS), "every engine has its part"


def test_slots_are_learned_within_200_requests(own_fleet):
    learned = lambda: {name: own_fleet.node(name)["slots"] for name in SLOTS}
    for _ in range(7):
        many(own_fleet, 25, at_once=10)
        if learned() == SLOTS:
            break
    # What is right stays so.
    many(own_fleet, 25, at_once=10)
    assert learned() == SLOTS


def test_the_speed_is_what_a_person_measures(own_fleet, chatters):
    # One at a time, as the engines share this machine.
    many(own_fleet, 30, at_once=1, tokens=16)
    engine = chatters["north"]
    timings = engine.post(CHAT, chat("Tell me a story.", 48, ignore_eos=True)).json()["timings"]
    # The node's own figure is that of a model of 5 GB.
    learned = next(iter(own_fleet.node("north")["loaded"]))["tokens_per_second"]
    assert timings["predicted_per_second"] / 3 < learned < timings["predicted_per_second"] * 3


# A minute or two each: one kind of node is enough.
ONE_KIND = pytest.mark.parametrize("kind", ["openai"], indirect=True, scope="session")
# The gate of 25 % is held by the scheduler's simulation (crates/scheduler/src/properties/forecast.rs). Here the figure is
# reported, and fails the test only if it is far off and the engines had the machine to themselves.
MOST_MEDIAN_ERROR = 1.0
IDLE_ENOUGH = 0.7


def idle_share() -> float:
    """The idle part of the processors' time over three seconds, in which nothing here works."""
    times = lambda: [int(part) for part in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    before = times()
    time.sleep(3)
    passed = [after - earlier for after, earlier in zip(times(), before)]
    return passed[3] / max(1, sum(passed))


@pytest.fixture
def pair(kind, chatters):
    """A fleet of two engines, so that each has a core of its own: no gateway can know that nodes share a machine."""
    idle = idle_share()
    chosen = {name: chatters[name] for name in ("north", "east")}
    with real.fleet(kind, chosen, relay={"chunk_gap_seconds": 10, "first_byte_seconds": 20}) as started:
        many(started, 40, at_once=4, tokens=12)
        started.idle = idle
        yield started


def forecasts(fleet, count: int, at_once: int) -> list[tuple[float, float]]:
    """Milliseconds to the first token of so many streams, as expected and as measured."""

    def one(number: int) -> tuple[float, float] | None:
        began = time.monotonic()
        response = fleet.post(CHAT, chat(f"The number {number}?", 6 + number % 20, stream=True), stream=True)
        expected = response.headers.get("x-gateway-expected-ms")
        with contextlib.closing(response):
            times = [at for at, event in events(response) if real_text(event)]
        return (float(expected), (times[0] - began) * 1000) if expected and times else None

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return [each for each in pool.map(one, range(count)) if each is not None]


def check_forecasts(fleet, pairs: list[tuple[float, float]]) -> None:
    errors = [abs(expected - measured) / measured for expected, measured in pairs]
    for expected, measured in pairs:
        print(f"expected {expected:6.0f} ms, measured {measured:6.0f} ms, {expected / measured - 1:+.0%}")
    median = statistics.median(errors)
    report = f"median error of the forecast {median:.0%} of {len(pairs)}; the machine was {fleet.idle:.0%} idle before"
    warnings.warn(report, stacklevel=2)
    assert fleet.idle < IDLE_ENOUGH or median <= MOST_MEDIAN_ERROR, report


@ONE_KIND
def test_the_time_to_the_first_token_is_foretold(pair):
    pairs = forecasts(pair, 100, at_once=5)
    assert len(pairs) >= 80
    check_forecasts(pair, pairs)


@contextlib.contextmanager
def slowed(engine):
    """The engine runs a quarter of the time."""
    is_over = threading.Event()

    def hold():
        while not is_over.is_set():
            engine.freeze()
            is_over.wait(0.15)
            engine.thaw()
            is_over.wait(0.05)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        is_over.set()
        holder.join()


@ONE_KIND
def test_the_time_to_the_first_token_is_foretold_in_the_minute_after_a_slow_spell(pair, chatters):
    forecasts(pair, 20, at_once=5)
    with slowed(chatters["east"]):
        began = time.monotonic()
        while time.monotonic() < began + 30:
            forecasts(pair, 10, at_once=5)
    over, pairs = time.monotonic(), []
    while time.monotonic() < over + 60:
        pairs += forecasts(pair, 20, at_once=5)
    check_forecasts(pair, pairs)
    assert pair.node("east")["state"] == "up"


def real_text(event: dict) -> bool:
    return any(choice.get("delta", {}).get("content") for choice in event.get("choices", []))


def test_a_stream_of_a_killed_engine_ends_with_an_error_and_the_others_go_on(own_fleet, chatters):
    response, rest = opened(own_fleet, "Tell me a very long story.", 1500)
    victim = response.headers["x-gateway-node"]
    chatters[victim].kill()
    told = [event for _, event in rest]
    assert "error" in told[-1], told[-1]
    answers = many(own_fleet, 8, at_once=4)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert victim not in {answer.headers["x-gateway-node"] for answer in answers}
    chatters[victim].start()
    serves = lambda: victim in {answer.headers["x-gateway-node"] for answer in many(own_fleet, 24, at_once=12)}
    wait_until("it serves again", serves, seconds=60)


@ONE_KIND
def test_a_frozen_engine_fails_nobody_and_has_its_part_again_within_a_minute(own_fleet, chatters):
    many(own_fleet, 60, at_once=6)
    response, rest = opened(own_fleet, "Tell me a very long story.", 1500)
    victim = response.headers["x-gateway-node"]
    chatters[victim].freeze()
    frozen_at = time.monotonic()
    told = [event for _, event in rest]
    assert "error" in told[-1] or "choices" in told[-1]
    answers = many(own_fleet, 12, at_once=4)
    assert [answer.status_code for answer in answers] == [200] * 12
    time.sleep(max(0.0, frozen_at + 20 - time.monotonic()))
    chatters[victim].thaw()
    thawed_at = time.monotonic()
    while time.monotonic() < thawed_at + 60:
        served = [answer.headers["x-gateway-node"] for answer in many(own_fleet, 12, at_once=6)]
        # Half of its part, by its slots, is enough: twelve requests are few.
        if served.count(victim) >= 12 * SLOTS[victim] / sum(SLOTS.values()) / 2:
            return
    pytest.fail(f"{victim} has not had its part of the work for a minute: {own_fleet.node(victim)}")
