"""Does the console of a gateway that follows another one show and do what that of the leader does?"""

import contextlib
import json
import os
import pathlib
import subprocess
import uuid

import pytest
from playwright.sync_api import expect

from support import ADMIN_KEY, CHAT_MODEL, binary, free_address, running, wait_until
from test_console import ask, confirm, in_background, row_of


@contextlib.contextmanager
def database():
    """The address of a database of our own on the server of the run."""
    if os.environ.get("SKIP_POSTGRES") == "1":
        pytest.skip("SKIP_POSTGRES=1")
    server = os.environ["TEST_POSTGRES_URL"]
    name = f"console_{uuid.uuid4().hex[:12]}"

    def say(statement):
        subprocess.run(["psql", "--no-psqlrc", "--quiet", server, "-c", statement], check=True, timeout=60)

    say(f"CREATE DATABASE {name}")
    try:
        yield server.rpartition("/")[0] + f"/{name}"
    finally:
        say(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def linked(url, node, folder):
    """A gateway with a link, on this database and node."""
    address = free_address()
    (folder / "outboxes").mkdir(mode=0o700, exist_ok=True)
    environment = os.environ | {
        "GATEWAY__SERVER__BIND": address,
        "GATEWAY__SERVER__DRAIN_SECONDS": "2",
        "GATEWAY__ADMIN__KEY": ADMIN_KEY,
        "GATEWAY__DATABASE__URL": url,
        "GATEWAY__DATABASE__OUTBOX": str(folder / "outboxes" / f"{address.replace(':', '-')}.db"),
        "GATEWAY__CLUSTER__BIND": "127.0.0.1:0",
        "GATEWAY__NODES": json.dumps([{"name": "only", "url": f"http://{node}", "slots": 1}]),
    }
    with running(address, [binary(), "serve"], env=environment, cwd=folder) as gateway:
        yield gateway


def role(gateway):
    scheduling = gateway.admin("GET", "/queue").json()["scheduling"]
    return scheduling["role"] if scheduling["is_settled"] else None


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two gateways over one node with one slot: who leads, and who follows."""
    folder: pathlib.Path = tmp_path_factory.mktemp("pair")
    node = free_address()
    simulated = subprocess.Popen(
        [binary().with_name("ollama-sim"), "--listen", node, "--models", f"{CHAT_MODEL}=2", "--warm", "--speed", "50"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with database() as url, linked(url, node, folder) as first, linked(url, node, folder) as second:
            both = [first, second]
            wait_until("one of them leads", lambda: sorted(map(str, map(role, both))) == ["following", "leading"], seconds=30)
            yield sorted(both, key=role, reverse=True)
    finally:
        simulated.terminate()
        simulated.wait(10)


@pytest.fixture
def console(windows, pair):
    """The follower's console, in which the admin is signed in."""
    window = windows(f"{pair[1].url}/console")
    window.sign_in(ADMIN_KEY)
    return window


def card(page):
    return page.get_by_role("region", name="Nodes").locator("[data-node=only]")


def test_who_waits_at_the_follower_is_told_of_the_slot_that_the_leader_uses(console, pair):
    leader, follower = pair
    with leader.user() as (_, key), follower.user() as (other, other_key):
        wait_until("both know them", lambda: all(
            gateway.request("GET", "/v1/models", known).status_code == 200 for gateway in pair for known in [key, other_key]))
        page = console.open("now")
        expect(card(page)).to_contain_text("0 of 1 slots in use")
        first = in_background(lambda: ask(leader, key, tokens=400))
        expect(card(page)).to_contain_text("1 of 1 slots in use")
        expect(card(page).locator(".square.other")).to_have_count(1)
        expect(page.locator("main .verdict")).to_contain_text("1 request is running")
        expect(page.get_by_role("region", name="Running")).to_contain_text("1 request runs through other gateways")
        second = in_background(lambda: ask(follower, other_key, tokens=5))
        waiting = page.get_by_role("region", name="Queue").locator("tbody tr").filter(has_text=other)
        expect(waiting).to_contain_text("waits for a slot on only")
        wait_until("both are answered", lambda: first and second, seconds=60)
        assert [first[0].status_code, second[0].status_code] == [200, 200]
        expect(waiting).to_have_count(0)
        expect(card(page)).to_contain_text("0 of 1 slots in use")
        expect(page.locator("main .verdict")).to_contain_text("Nothing is running and nothing is waiting.")


def test_a_node_that_is_drained_at_the_follower_is_drained_at_the_leader(console, pair):
    leader, _ = pair

    def state():
        return leader.admin("GET", "/nodes").json()["data"][0]["state"]

    page = console.open("now")
    card(page).get_by_role("button", name="Drain only").click()
    confirm(page, "Drain")
    wait_until("the leader drains it", lambda: state() == "draining")
    expect(card(page)).to_contain_text("draining")
    card(page).get_by_role("button", name="Undrain only").click()
    confirm(page, "Undrain")
    wait_until("the leader uses it again", lambda: state() == "up")
    expect(card(page)).to_contain_text("up")


def test_a_user_who_is_made_at_the_follower_is_known_to_the_leader_and_revoked_there(console, pair):
    leader, follower = pair
    user = f"made-{uuid.uuid4().hex[:8]}"
    page = console.open("users")
    page.get_by_role("button", name="Create user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User id").fill(user)
    confirm(page, "Create user")
    key = dialog.get_by_label("The key", exact=True).inner_text()
    confirm(page, "I have copied it")
    wait_until("the leader knows it", lambda: ask(leader, key).status_code == 200)

    # The leader wrote the row, and the follower's page has it.
    page = console.open(f"requests?user={user}")
    expect(row_of(page, user)).to_contain_text("completed")
    console.open(f"users/{user}").get_by_role("button", name="Delete", exact=True).click()
    confirm(page, "Delete")
    expect(page.get_by_role("heading", name="Users")).to_be_visible()
    wait_until("the leader refuses it", lambda: ask(leader, key).status_code == 401)
