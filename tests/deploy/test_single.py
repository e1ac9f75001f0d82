"""Does the compose file's profile `sim` do what docs/operate says, and does a gateway's replacement cost clients nothing?"""

import concurrent.futures
import threading
import time

import openai
import pytest
import requests
import stack as stacks
import yaml
from stack import REPLACE_SECONDS, Load
from support import CHAT_MODEL, wait_until

# Tokens of an answer that lasts longer than a gateway needs to be told to stop: fifteen seconds at the least.
LONG = 900
PROMETHEUS = "http://127.0.0.1:9090/api/v1"


@pytest.fixture(scope="module")
def stack(engine, images, root):
    with stacks.stack(engine, root, "http://127.0.0.1:8000", ["sim"]) as running:
        yield running


@pytest.fixture
def key(stack):
    with stack.gateway.user() as (_, key):
        yield key


def prometheus(path: str) -> dict:
    response = requests.get(f"{PROMETHEUS}/{path}", timeout=10)
    assert response.status_code == 200, response.text
    return response.json()["data"]


def healthy_nodes(stack) -> int:
    return stack.gateway.request("GET", "/health").json()["nodes"]["healthy"]


def test_every_service_of_the_profile_runs_and_is_healthy(stack):
    states = stack.states()
    assert set(states) == {"gateway", "postgres", "prometheus", "sim-0", "sim-1"}
    assert {service for service, state in states.items() if state == "healthy"} >= {"gateway", "postgres", "prometheus"}
    health = stack.gateway.request("GET", "/health").json()
    assert health["nodes"]["total"] == 2
    wait_until("both nodes are healthy", lambda: healthy_nodes(stack) == 2)


def test_a_chat_is_answered_at_the_published_port(stack, key):
    assert stacks.attempt(stack.gateway.url, key, 5) == "answered"
    wait_until("its usage is in Postgres", lambda: len(stack.gateway.rows(key)) == 1)


def test_the_gateway_can_write_nothing_but_its_volume(stack):
    config = stack.container("gateway")
    assert config["HostConfig"]["ReadonlyRootfs"] and config["HostConfig"]["CapDrop"] == ["ALL"]
    assert config["Config"]["User"] == "65532:65532"
    assert {mount["Destination"] for mount in config["Mounts"] if mount["RW"]} == {"/var/lib/gateway"}


def test_prometheus_scrapes_the_gateway_and_has_the_rules(stack):
    def targets():
        return {target["labels"]["instance"]: target["health"] for target in prometheus("targets")["activeTargets"]}

    wait_until("Prometheus has scraped the gateway", lambda: targets() == {"gateway:8000": "up"}, 40)
    with (stack.root / "deploy/prometheus/rules/gateway.yml").open() as file:
        wanted = [rule.get("alert") or rule["record"] for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == wanted
    wait_until("the rules are evaluated", lambda: {rule["health"] for group in prometheus("rules")["groups"]
                                                   for rule in group["rules"]} == {"ok"}, 40)


def test_chats_go_on_when_a_nodes_container_is_killed(stack, key):
    wait_until("both nodes are healthy", lambda: healthy_nodes(stack) == 2)
    with Load(stack.gateway.url, key, clients=6, tokens=40) as load:
        stack.compose("kill", "sim-0")
        wait_until("the gateway knows it", lambda: healthy_nodes(stack) == 1, 20)
        load.wait_for_answers(12)
        stack.compose("up", "-d")
        wait_until("the node is used again", lambda: healthy_nodes(stack) == 2, 40)
        load.wait_for_answers(12)
    # A chat without streaming has sent nothing when its node dies, so the other node can answer it.
    assert set(load.outcomes()) == {"answered"}


def long_answer(stack, key: str, has_begun: threading.Event) -> tuple[int, str | None]:
    """How many chunks a long stream had, and how it ended."""
    with openai.OpenAI(base_url=stack.gateway.api, api_key=key, max_retries=0, timeout=120) as client:
        chunks, reason = 0, None
        question = [{"role": "user", "content": f"[[n={LONG}]]"}]
        for chunk in client.chat.completions.create(model=CHAT_MODEL, stream=True, messages=question):
            has_begun.set()
            if chunk.choices and chunk.choices[0].delta.content:
                chunks += 1
            if chunk.choices and chunk.choices[0].finish_reason:
                reason = chunk.choices[0].finish_reason
    return chunks, reason


def sdk_answer(stack, key: str) -> str:
    """With the SDK's own pauses between retries, but as many as the longest stream may need."""
    with openai.OpenAI(base_url=stack.gateway.api, api_key=key, max_retries=60, timeout=60) as client:
        answer = client.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": "[[n=5]]"}])
    return answer.choices[0].finish_reason


def test_the_upgrade_of_docs_operate_upgrade_loses_nothing(stack, images, key):
    """Running answers finish, new requests are told to come again, and no usage is lost."""
    before = stack.container("gateway")
    images.give_binaries("2")
    # The upgrade builds it from its cache then, well within the long stream.
    stack.compose("build", "gateway")
    with concurrent.futures.ThreadPoolExecutor() as pool, Load(stack.gateway.url, key, clients=4, tokens=20) as load:
        has_begun = threading.Event()
        stream = pool.submit(long_answer, stack, key, has_begun)
        assert has_begun.wait(30)
        upgrade = pool.submit(stack.compose, "up", "-d", "--build", "gateway", seconds=REPLACE_SECONDS)
        wait_until("the old gateway drains", lambda: load.outcomes().get("refused"), 60)
        through_sdk = pool.submit(sdk_answer, stack, key)
        upgrade.result()
        upgraded = time.monotonic()
        load.wait_for_answers(8, 60)
        assert stream.result() == (LONG, "stop")
        assert through_sdk.result() == "stop"
        stack.wait_until_healthy()
    after = stack.container("gateway")
    assert after["Id"] != before["Id"] and after["Image"] != before["Image"]
    outcomes = load.outcomes()
    print(outcomes)
    # Between the two containers nobody listens.
    assert set(outcomes) <= {"answered", "refused", "disconnected"}
    assert load.answered_since(upgraded) >= 8
    # The old gateway wrote what it had served before it ended.
    answered = outcomes["answered"] + 2
    wait_until("every answer has its usage row", lambda: sum(row["status"] == "completed" for row in stack.gateway.rows(key)) == answered)
