"""Who sees what? Administrators of each role see what they may do, and no button that would be refused."""

import contextlib
import uuid

import pytest
from playwright.sync_api import expect

from support import CHAT_MODEL
from test_console import ask, confirm, in_background, row_of, wait_until

PAGES = ["now", "requests", "users", "users/user-123", "groups", "models", "usage", "admins", "changes"]
# What anybody may press who may look.
LOOKING = {"Search", "Show", "Show more", "Try again", "Refresh", "Copy"}
OPERATING = {"Drain", "Stop", "Pull", "Load", "Unload", "Delete", "Start traffic"}


@contextlib.contextmanager
def administrator(fleet, role):
    name = f"{role}-{uuid.uuid4().hex[:8]}"
    made = fleet.admin("POST", "/admins", json={"name": name, "role": role})
    assert made.status_code == 201, made.text
    try:
        yield name, made.json()["api_key"]
    finally:
        fleet.admin("DELETE", f"/admins/{name}")


def buttons(page) -> set[str]:
    """The first word of every button in the page, as a name follows it."""
    texts = page.locator("main button").evaluate_all("(all) => all.map((one) => one.firstChild?.textContent.trim() ?? '')")
    return set(texts)


@pytest.mark.parametrize("role, allowed", [("viewer", LOOKING), ("operator", LOOKING | OPERATING)])
def test_a_role_sees_everything_and_no_button_that_would_be_refused(windows, fleet, role, allowed):
    with administrator(fleet, role) as (name, key), fleet.user() as (_, user_key):
        window = windows()
        page = window.sign_in(key)
        refused = []
        page.on("response", lambda response: response.status >= 400 and refused.append(response.url))
        expect(page.locator("header .who")).to_have_text(f"{name} · {role}")
        # Something runs, so that there is something to stop.
        in_background(lambda: ask(fleet, user_key, tokens=600))
        seen = set()
        for path in PAGES:
            window.open(path)
            expect(page.locator("main table, main .card, main p.quiet").first).to_be_visible()
            expect(page.get_by_text("Loading…")).to_have_count(0)
            if path == "now":
                expect(page.get_by_role("region", name="Running").locator("tbody tr").first).to_be_visible()
            assert buttons(page) <= allowed, path
            seen |= buttons(page)
        assert seen >= allowed & {"Search", "Refresh", "Drain", "Stop", "Pull", "Load", "Delete"}
        assert refused == []


def test_an_operator_drains_a_node(windows, fleet):
    with administrator(fleet, "operator") as (_, key):
        page = windows().sign_in(key)
        card = page.locator("[data-node=slow]")
        card.get_by_role("button", name="Drain slow").click()
        confirm(page, "Drain")
        expect(card).to_contain_text("draining")
        card.get_by_role("button", name="Undrain slow").click()
        confirm(page, "Undrain")
        expect(card).to_contain_text("up")


def test_an_administrator_is_made_changed_rotated_and_deleted(admin, windows, fleet):
    name = f"eve-{uuid.uuid4().hex[:8]}"
    page = admin.open("admins")
    page.get_by_role("button", name="Create administrator").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Role").select_option("viewer")
    dialog.get_by_label("Expires").fill("2035-01-02T03:04")
    confirm(page, "Create administrator")
    secret = dialog.get_by_label("The key", exact=True).inner_text()
    assert secret.startswith(f"sk-admin-{name}-")
    expect(dialog.get_by_role("button", name="How to use it")).to_have_count(0)
    confirm(page, "I have copied it")
    assert secret not in page.content(), "it is shown once"
    row = row_of(page, name)
    expect(row).to_contain_text("viewer: reads everything")
    expect(row).to_contain_text("2035")

    theirs = windows().sign_in(secret)
    expect(theirs.locator("header .who")).to_have_text(f"{name} · viewer")
    row.get_by_role("button", name=f"Edit {name}").click()
    expect(dialog.get_by_label("Role")).to_have_value("viewer")
    expect(dialog.get_by_label("Expires")).to_have_value("2035-01-02T03:04")
    dialog.get_by_label("Role").select_option("operator")
    dialog.get_by_label("Expires").fill("")
    confirm(page, "Save")
    expect(row).to_contain_text("operator: also works on nodes")
    expect(row).to_contain_text("never")

    row.get_by_role("button", name=f"Rotate {name}").click()
    page.get_by_label("Keep the old secret valid for").select_option("an hour")
    confirm(page, "Rotate")
    new = dialog.get_by_label("The key", exact=True).inner_text()
    confirm(page, "I have copied it")
    expect(row).to_contain_text(f"…{secret[-4:]} is valid until")
    assert [fleet.request("GET", "/admin/nodes", key).status_code for key in (secret, new)] == [200, 200]

    row.get_by_role("button", name=f"Delete {name}").click()
    confirm(page, "Delete")
    expect(row).to_have_count(0)
    assert [fleet.request("GET", "/admin/nodes", key).status_code for key in (secret, new)] == [401, 401]
    # The session goes with the key.
    theirs.get_by_role("link", name="Users").click()
    expect(theirs.get_by_text("The session has ended")).to_be_visible()


def test_users_make_and_revoke_keys_of_their_own(windows, fleet):
    with fleet.user() as (user, key):
        page = windows().sign_in(key)
        keys = page.get_by_role("region", name="Keys")
        keys.get_by_role("button", name="Create key").click()
        page.get_by_role("dialog").get_by_label("Name").fill("laptop")
        page.get_by_role("dialog").get_by_label("Models").fill(CHAT_MODEL)
        confirm(page, "Create key")
        secret = page.get_by_role("dialog").get_by_label("The key", exact=True).inner_text()
        confirm(page, "I have copied it")
        assert ask(fleet, secret).status_code == 200
        expect(row_of(keys, "laptop")).to_contain_text(CHAT_MODEL)
        expect(keys.get_by_role("button", name="Rotate")).to_have_count(0)

        row_of(keys, "laptop").get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("dialog")).to_contain_text(f"The key laptop of {user}")
        confirm(page, "Revoke")
        expect(row_of(keys, "laptop")).to_have_count(0)
        assert ask(fleet, secret).status_code == 401


def test_nothing_is_said_of_keys_where_users_may_not_manage_them(windows, fleet, user_key):
    window = windows()
    error = {"error": {"message": "Keys are managed by the operator of this service.", "type": "invalid_request_error"}}
    window.page.route("**/v1/me/keys", lambda route: route.fulfill(status=403, json=error))
    with window.page.expect_response("**/v1/me/keys"):
        page = window.sign_in(user_key)
    expect(page.get_by_role("region", name="Connect a program")).to_be_visible()
    expect(page.get_by_role("region", name="Keys")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_visitor_of_the_demo_sees_a_fleet_at_work_within_a_minute(admin, fleet):
    page = admin.open("now")
    try:
        page.get_by_role("button", name="Start traffic").click()
        running = page.get_by_role("region", name="Running").locator("tbody tr")
        for name in ["alice", "bob", "carol", "dan"]:
            expect(running.filter(has_text=name).first).to_be_visible(timeout=60_000)
        expect(page.get_by_role("region", name="Queue").locator("tbody tr").first).to_be_visible(timeout=60_000)
        page.get_by_role("button", name="Stop traffic").click()
        expect(page.locator("main .verdict")).to_contain_text("Nothing is running and nothing is waiting.", timeout=20_000)
    finally:
        fleet.admin("PUT", "/demo", json={"traffic": False})


def test_the_last_hour_is_drawn_of_the_fleet_and_of_a_node(admin, fleet, user_key):
    node = ask(fleet, user_key, tokens=300).headers["x-gateway-node"]

    def series():
        return fleet.admin("GET", "/series", params={"node": node}).json()["requests_per_minute"]

    wait_until("an interval with the request is over", lambda: any(series()), seconds=15)
    page = admin.open("now")
    page.reload()
    hour = page.get_by_role("region", name="Last hour")
    for of in ["", node]:
        hour.get_by_label("Of").select_option(of)
        speed = hour.get_by_role("img", name="Tokens per second")
        expect(speed).not_to_have_accessible_name("Tokens per second: 0, at most 0")
        assert "L" in speed.locator("path").get_attribute("d"), of
    expect(hour.get_by_role("img")).to_have_count(5)
