"""Do the two gateways of the profile `cluster` stand in for each other, behind their balancer?"""

import concurrent.futures
import os
import re
import signal
import time

import openai
import pytest
import requests
import stack as stacks
from stack import REPLACE_SECONDS, Load
from support import CHAT_MODEL, wait_until

SLOTS = 4
GATEWAYS = ["gateway", "gateway-2"]
# The scheduler's lease, 5 s, and what the balancer takes to notice.
TAKEOVER_SECONDS = 8
# The gateway has an answer, and may use the slot again, a moment before the counter has done with it.
HANDOVER_MS = 50


@pytest.fixture(scope="module")
def pair(engine, images, root):
    with stacks.stack(engine, root, "http://127.0.0.1:8080", ["sim", "cluster"], ["counted.yml"]) as running:
        wait_until("one leads and the other follows", lambda: roles(running) == ["following", "leading"], 30)
        yield running


@pytest.fixture
def key(pair):
    with pair.gateway.user() as (_, key):
        # Each gateway reads the new key from Postgres.
        wait_until("both gateways know the key", lambda: all(stacks.attempt(pair.one(each).url, key, 1) == "answered"
                                                            for each in GATEWAYS))
        yield key


def roles(pair) -> list[str]:
    return sorted(pair.role(service) for service in GATEWAYS)


def leader(pair) -> str:
    return next(service for service in GATEWAYS if pair.role(service) == "leading")


def most_at_once(pair) -> int:
    """The most chats that a node has had at a time, as counted between the gateways and the nodes."""
    changes = []
    for line in pair.compose("logs", "--no-color", "counter").splitlines():
        if found := re.search(r"chats-(\d) (\d+) (\d+)$", line):
            node, ended, lasted = map(int, found.groups())
            if lasted > HANDOVER_MS:
                changes += [(ended - lasted, +1, node), (ended - HANDOVER_MS, -1, node)]
    assert changes, "the counter has seen the chats"
    at_once = {0: 0, 1: 0}
    most = 0
    for _, change, node in sorted(changes):
        at_once[node] += change
        most = max(most, at_once[node])
    return most


def served(pair, service: str) -> float:
    return pair.one(service).metric("gateway_requests_total", outcome="ok")


def test_both_gateways_serve_behind_the_balancer(pair, key):
    before = [served(pair, service) for service in GATEWAYS]
    # More clients than slots, so that gateways that did not know of each other would over-commit.
    with Load(pair.gateway.url, key, clients=14, tokens=30) as load:
        load.wait_for_answers(60, 60)
    assert set(load.outcomes()) == {"answered"}
    assert all(served(pair, service) > count for service, count in zip(GATEWAYS, before))
    assert most_at_once(pair) == SLOTS, "every slot was used, and no node had more"


def test_prometheus_knows_the_second_gateway(pair):
    def targets():
        answer = requests.get("http://127.0.0.1:9090/api/v1/targets", timeout=10).json()
        return {target["labels"]["instance"]: target["health"] for target in answer["data"]["activeTargets"]}

    wait_until("both are scraped", lambda: targets() == {"gateway:8000": "up", "gateway-2:8000": "up"}, 70)


def test_when_the_leader_is_killed_the_other_gateway_serves(pair, key):
    killed = leader(pair)
    other = next(service for service in GATEWAYS if service != killed)
    with Load(pair.gateway.url, key, clients=14, tokens=30) as load:
        moment = time.monotonic()
        pair.compose("kill", killed)
        wait_until("the other leads", lambda: pair.role(other) == "leading", TAKEOVER_SECONDS)
        load.wait_for_answers(28)
        settled = time.monotonic()
        load.wait_for_answers(28)
        pair.compose("up", "-d")
        wait_until("the killed one follows", lambda: pair.states().get(killed) == "healthy" and pair.role(killed) == "following", 60)
        before = served(pair, killed)
        wait_until("the balancer uses it again", lambda: served(pair, killed) > before + 8, 30)
    print(load.outcomes())
    assert set(load.outcomes(until=moment + TAKEOVER_SECONDS)) <= {"answered", "disconnected"}
    assert set(load.outcomes(since=settled)) == {"answered"}
    # Each client had one request at the killed gateway, and may have met it again until the balancer knew.
    assert load.outcomes().get("disconnected", 0) <= 3 * 14
    assert most_at_once(pair) <= SLOTS


def test_a_gateway_that_crashes_comes_back_by_itself(pair, key):
    crashed = leader(pair)
    state = pair.container(crashed)["State"]
    with Load(pair.gateway.url, key, clients=8, tokens=20) as load:
        os.kill(state["Pid"], signal.SIGKILL)
        wait_until("it has been started anew", lambda: pair.container(crashed)["RestartCount"] == 1
                   and pair.container(crashed)["State"]["Health"]["Status"] == "healthy", 60)
        wait_until("one leads and the other follows", lambda: roles(pair) == ["following", "leading"], 30)
        settled = time.monotonic()
        load.wait_for_answers(16)
    assert set(load.outcomes(since=settled)) == {"answered"}
    assert most_at_once(pair) <= SLOTS


def test_a_client_that_retries_sees_no_error_while_both_are_replaced(pair, images, key):
    """One after the other, as docs/operate/deploy says."""
    images.give_binaries("3")

    def chat_until(done) -> int:
        answers = 0
        # The SDK's own number of retries.
        with openai.OpenAI(base_url=pair.gateway.api, api_key=key, timeout=60) as client:
            while not done():
                answer = client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": "[[n=20]]"}])
                assert answer.choices[0].finish_reason == "stop"
                answers += 1
        return answers

    before = {service: pair.container(service)["Id"] for service in GATEWAYS}
    is_over = False
    with concurrent.futures.ThreadPoolExecutor() as pool:
        clients = [pool.submit(chat_until, lambda: is_over) for _ in range(6)]
        try:
            for service in GATEWAYS:
                pair.compose("up", "-d", "--no-deps", "--build", service, seconds=REPLACE_SECONDS)
                wait_until("it is healthy", lambda: pair.states()[service] == "healthy", 60)
            wait_until("one leads and the other follows", lambda: roles(pair) == ["following", "leading"], 30)
        finally:
            is_over = True
        assert all(client.result() >= 1 for client in clients)
    assert all(pair.container(service)["Id"] != before[service] for service in GATEWAYS)
    assert most_at_once(pair) <= SLOTS
