"""Does the console do what it shows? In a real browser, against a demo of our own."""

import contextlib
import json
import threading
import uuid

import pytest
from playwright.sync_api import TimeoutError, expect

from evil import MARKUP, evil_node
from front import PREFIX, Front
from support import CHAT_MODEL, wait_until


def ask(fleet, key, tokens=3, model=CHAT_MODEL, **options):
    body = {"model": model, "messages": [{"role": "user", "content": f"[[n={tokens}]]"}]} | options
    return fleet.request("POST", "/v1/chat/completions", key, json=body)


def in_background(work):
    """Runs it, and hands over where its result will be."""
    results = []
    threading.Thread(target=lambda: results.append(work()), daemon=True).start()
    return results


def row_of(page, text):
    return page.locator("tbody tr").filter(has_text=text)


def confirm(page, action):
    """Presses the button of that name in the dialog."""
    page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()


def test_a_user_is_made_and_the_key_works_and_the_row_appears(admin, fleet):
    user = f"made-{uuid.uuid4().hex[:8]}"
    page = admin.open("users")
    page.get_by_role("button", name="Create user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("User id").fill(user)
    dialog.get_by_label("Requests per minute").fill("5")
    confirm(page, "Create user")

    secret = dialog.get_by_label("The key", exact=True).inner_text()
    assert secret.startswith(f"sk-{user}-")
    dialog.get_by_role("button", name="How to use it").click()
    for program in ["curl", "OpenAI SDK", "Open WebUI", "Continue", "Claude Code", "Codex", "Ollama CLI"]:
        dialog.get_by_role("button", name=program, exact=True).click()
        snippet = dialog.get_by_label(program, exact=True).inner_text()
        assert secret in snippet and fleet.url in snippet, program
    confirm(page, "I have copied it")
    expect(page.get_by_role("heading", name=user)).to_be_visible()
    assert secret not in page.content(), "it is shown once"

    assert ask(fleet, secret).status_code == 200
    page.reload()
    expect(page.locator(".bar").filter(has_text="Requests per minute")).to_contain_text("1 of 5")
    page.get_by_role("link", name="Requests of this user").click()
    expect(row_of(page, user)).to_contain_text("completed")
    row_of(page, user).get_by_role("link").click()
    expect(page.locator(".line")).to_contain_text("It ended: completed.")
    expect(page.locator("main .verdict")).to_contain_text("It was answered whole")

    admin.open(f"users/{user}").get_by_role("button", name="Change limits").click()
    page.get_by_role("dialog").get_by_label("Requests per minute").fill("")
    confirm(page, "Save")
    expect(page.locator(".bar").filter(has_text="Requests per minute")).to_contain_text("no limit")
    # Who thinks better of it is where they were.
    for way_out in ["Cancel", "Delete"]:
        expect(page.get_by_role("heading", name=user)).to_be_visible()
        page.get_by_role("button", name="Delete", exact=True).click()
        confirm(page, way_out)
    expect(page.get_by_role("heading", name=user)).to_have_count(0)
    assert ask(fleet, secret).status_code == 401


def test_a_key_is_rotated_with_an_overlap_and_revoked(admin, fleet):
    with fleet.user() as (user, old):
        page = admin.open(f"users/{user}")
        page.get_by_role("button", name="Rotate default").click()
        page.get_by_label("Keep the old secret valid for").select_option("an hour")
        confirm(page, "Rotate")
        new = page.get_by_role("dialog").get_by_label("The key", exact=True).inner_text()
        confirm(page, "I have copied it")

        expect(row_of(page, "default")).to_contain_text(f"…{old[-4:]} is valid until")
        assert new != old
        assert [ask(fleet, key).status_code for key in (old, new)] == [200, 200]
        page.get_by_role("button", name="Revoke default").click()
        confirm(page, "Revoke")
        expect(page.get_by_text("No keys.")).to_be_visible()
        assert [ask(fleet, key).status_code for key in (old, new)] == [401, 401]


def test_a_user_is_edited_found_and_suspended(admin, fleet):
    with fleet.user() as (user, key):
        page = admin.open(f"users/{user}")
        page.get_by_role("button", name="Edit").click()
        page.get_by_role("dialog").get_by_label("Name").fill(MARKUP)
        page.get_by_role("dialog").get_by_label("Note").fill(f"note-of-{user}")
        confirm(page, "Save")
        expect(page.get_by_text(MARKUP)).to_be_visible()
        page.get_by_role("button", name="Suspend").click()
        confirm(page, "Suspend")
        expect(page.locator("main .badge")).to_have_text("suspended")
        assert ask(fleet, key).status_code == 403

        admin.open("users")
        page.get_by_label("Search", exact=True).fill(f"NOTE-OF-{user}")
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(1)
        row_of(page, user).get_by_role("link").click()
        page.get_by_role("button", name="Resume").click()
        confirm(page, "Resume")
        expect(page.locator("main .badge")).to_have_count(0)
        assert ask(fleet, key).status_code == 200


def test_a_node_that_drains_gets_nothing(admin, fleet, user_key):
    page = admin.open("now")
    card = page.locator("[data-node=fast]")
    card.get_by_role("button", name="Drain fast").click()
    confirm(page, "Drain")

    expect(card).to_contain_text("draining")
    expect(page.locator("main .verdict")).to_contain_text("1 of 3 nodes is draining: fast")
    nodes = {ask(fleet, user_key).headers["x-gateway-node"] for _ in range(6)}
    assert nodes and "fast" not in nodes
    card.get_by_role("button", name="Undrain fast").click()
    confirm(page, "Undrain")
    expect(card).to_contain_text("up")
    expect(page.locator("main .verdict")).to_contain_text("All 3 nodes are up")
    # More than the other two have slots.
    answers = [in_background(lambda: ask(fleet, user_key, tokens=100)) for _ in range(12)]
    wait_until("all are answered", lambda: all(answers), seconds=60)
    assert "fast" in {answer.headers["x-gateway-node"] for [answer] in answers}


def test_a_drain_has_a_reason_and_an_end_that_can_be_changed(admin, fleet):
    page = admin.open("now")
    card = page.locator("[data-node=middle]")
    dialog = page.get_by_role("dialog")
    card.get_by_role("button", name="Drain middle").click()
    dialog.get_by_label("Until").fill("2020-01-01T00:00")
    confirm(page, "Drain")
    expect(dialog.get_by_role("alert")).to_contain_text("until")
    dialog.get_by_label("Reason").fill(MARKUP)
    dialog.get_by_label("Until").fill("2035-01-02T03:04")
    confirm(page, "Drain")
    try:
        expect(card).to_contain_text("Under maintenance until")
        expect(card).to_contain_text(MARKUP)
        card.get_by_role("button", name="Edit drain middle").click()
        expect(dialog.get_by_label("Reason")).to_have_value(MARKUP)
        expect(dialog.get_by_label("Until")).to_have_value("2035-01-02T03:04")
        dialog.get_by_label("Reason").fill("driver update")
        dialog.get_by_label("Until").fill("")
        confirm(page, "Save")
        expect(card).to_contain_text("Under maintenance: driver update.")
        maintenance = fleet.admin("GET", "/nodes/middle").json()["maintenance"]
        assert (maintenance["reason"], maintenance["until"]) == ("driver update", None)
    finally:
        card.get_by_role("button", name="Undrain middle").click()
        confirm(page, "Undrain")
    expect(card).to_contain_text("up")
    expect(card.get_by_role("button", name="Undrain")).to_have_count(0)


def test_a_running_request_is_seen_and_stopped(admin, fleet):
    with fleet.user() as (user, key):
        page = admin.open("now")
        answers = in_background(lambda: ask(fleet, key, tokens=20_000, stream=True))
        running = page.get_by_role("region", name="Running").locator("tbody tr").filter(has_text=user)
        expect(running).to_be_visible()
        running.get_by_role("button", name="Stop").click()
        page.get_by_role("dialog").get_by_label("Reason").fill("the room is on fire")
        confirm(page, "Stop")

        expect(running).to_have_count(0)
        answer = wait_until("the client hears of it", lambda: answers and answers[0])
        assert "the room is on fire" in answer.text
        admin.open(f"requests?user={user}")
        expect(row_of(page, user)).to_contain_text("request_stopped")


def test_those_who_wait_are_told_why(admin, fleet):
    with fleet.user() as (user, key):
        page = admin.open("now")
        # More than the three nodes have slots.
        answers = [in_background(lambda: ask(fleet, key, tokens=150)) for _ in range(24)]
        waiting = page.get_by_role("region", name="Queue").locator("tbody tr").filter(has_text=user)
        expect(waiting.first).to_contain_text("waits for")
        expect(page.locator("main .verdict")).to_contain_text("waiting, the longest for")
        wait_until("all are answered", lambda: all(answers), seconds=60)
        expect(waiting).to_have_count(0)


def test_a_model_is_pulled_with_progress_loaded_and_deleted(admin, fleet):
    # The demo's nodes have it not, and can pull it.
    model = "gemma3:1b"
    page = admin.open("models")
    page.get_by_role("button", name="Pull", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Model").fill(model)
    dialog.get_by_label("slow").uncheck()
    confirm(page, "Pull")

    expect(dialog.get_by_role("progressbar", name="fast")).to_be_visible()
    expect(dialog).to_contain_text("Done on fast, middle", timeout=60_000)
    # The second one; the first is the cross above.
    dialog.get_by_role("button", name="Close").last.click()
    row = row_of(page, model)
    expect(row).to_contain_text("fast")
    expect(row).to_contain_text("middle")
    expect(row).not_to_contain_text("slow")
    row.get_by_role("button", name="Load").first.click()
    dialog.get_by_label("middle").uncheck()
    confirm(page, "Load")
    expect(row).to_contain_text("in memory")
    row.get_by_role("button", name="Delete").click()
    confirm(page, "Delete")
    expect(row).to_have_count(0)


def test_what_others_name_is_text(admin, fleet, windows):
    with evil_node() as url:
        added = fleet.admin("POST", "/nodes", json={"name": "evil", "url": url})
        assert added.status_code == 201, added.text
        try:
            page = admin.open("models")
            wait_until("the node is heard of", lambda: MARKUP in fleet.admin("GET", "/models").text)
            page.get_by_role("button", name="Refresh").click()
            expect(page.get_by_role("cell", name=MARKUP, exact=True)).to_be_visible()
            admin.open("now")
            expect(page.locator("[data-node=evil]")).to_contain_text(MARKUP)
        finally:
            fleet.admin("DELETE", "/nodes/evil")

    # The API takes no such id; the page must not depend on that.
    user = {"user_id": MARKUP, "created_at": "2026-11-27T00:00:00Z", "requests_per_minute": None, "tokens_per_day": None}
    page.route("**/admin/users?*", lambda route: route.fulfill(json={"object": "list", "data": [user], "next": None}))
    admin.open("users")
    expect(page.get_by_role("link", name=MARKUP)).to_be_visible()
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.stolen") is None


def test_a_users_key_opens_nothing_of_the_admins(windows, fleet):
    with fleet.user() as (user, key):
        window = windows()
        page = window.sign_in(key)
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Me"])
        for path in ["now", "users", "groups", "models", "usage", "admins", "changes"]:
            window.open(path)
            expect(page.get_by_role("heading", level=1)).to_have_text("Me")
        statuses = page.evaluate(
            """async (routes) => {
                const ask = (path, method = "GET") => fetch(path, { method, headers: { "x-console": "1" } });
                return Promise.all(routes.map(async ([path, method]) => (await ask(path, method)).status));
            }""",
            [["/admin/users", "GET"], ["/admin/nodes", "GET"], ["/admin/events", "GET"], [f"/admin/users/{user}", "DELETE"],
             ["/admin/nodes/fast/drain", "POST"]],
        )
        assert statuses == [403] * 5
        assert ask(fleet, key).status_code == 200


def test_a_user_sees_limits_and_tries_a_model(windows, fleet):
    with fleet.user(requests_per_minute=9, tokens_per_day=50_000) as (user, key):
        window = windows()
        page = window.sign_in(key)
        expect(page.locator("main .verdict")).to_contain_text(f"You are {user}.")
        page.get_by_label("Model", exact=True).select_option("llama3.2:latest")
        page.get_by_label("Question").fill("[[n=30]] What is a gateway?")
        page.get_by_role("button", name="Ask").click()

        expect(page.get_by_role("log")).not_to_be_empty()
        expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
        expect(page.locator(".bar").filter(has_text="Requests per minute")).to_contain_text("1 of 9")
        recent = page.get_by_role("region", name="Recent requests").locator("tbody tr")
        expect(recent.first).to_contain_text("completed")
        days = page.get_by_role("region", name="Usage").get_by_role("group", name="The last seven days")
        expect(days.locator("tbody tr")).to_have_count(7)
        expect(page.get_by_role("region", name="Models").get_by_role("listitem").filter(has_text="llava")).to_be_visible()
        expect(page.get_by_role("region", name="Connect a program")).to_contain_text(f"curl {fleet.url}/v1/chat/completions")
        assert len(page.get_by_role("log").inner_text()) > 20


def test_signing_out_ends_the_session_everywhere(admin, fleet):
    other = admin.page.context.new_page()
    other.goto(admin.console)
    expect(other.get_by_role("heading", level=1)).to_have_text("Now")
    cookies = admin.page.context.cookies()
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Strict")]
    assert fleet.admin_key not in json.dumps(cookies)
    assert admin.page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]

    admin.page.get_by_role("button", name="Sign out").click()
    expect(admin.page.get_by_label("Key")).to_be_visible()
    # The other page may notice by a request of its own, before it is used.
    with contextlib.suppress(TimeoutError):
        other.get_by_role("link", name="Users").click(timeout=2_000)
    expect(other.get_by_text("The session has ended")).to_be_visible()
    # Nor does the cookie itself open anything, should somebody have kept it.
    kept = {cookie["name"]: cookie["value"] for cookie in cookies}
    assert fleet.request("GET", "/admin/users", cookies=kept).status_code == 401


def test_a_wrong_key_is_told_so(windows):
    window = windows()
    page = window.page
    page.goto(window.console)
    page.get_by_label("Key").fill("sk-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Incorrect")


def test_a_stream_that_is_cut_shows_and_comes_back(windows, fleet):
    with Front(fleet.url) as front:
        window = windows(front.console)
        page = window.sign_in(fleet.admin_key)
        live = page.locator("[data-live]")
        expect(live).to_have_attribute("data-live", "live")
        expect(page.get_by_text("Loading…")).to_have_count(0)

        front.up.clear()
        expect(live).to_have_attribute("data-live", "stale")
        expect(page.get_by_role("alert")).to_contain_text("The connection to the gateway is lost.")
        front.up.set()
        expect(live).to_have_attribute("data-live", "live", timeout=20_000)
        expect(page.get_by_role("alert")).to_have_count(0)
        # A prefix does no harm to any page.
        for path in ["requests", "users", "models", "usage"]:
            window.open(path)
            expect(page.locator("main table, main p.quiet").first).to_be_visible()
            expect(page.get_by_role("alert")).to_have_count(0)
        assert PREFIX in page.url


def test_a_hidden_tab_listens_to_nothing(windows, fleet):
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with Front(fleet.url) as front:
        page = windows(front.console).sign_in(fleet.admin_key)
        live = page.locator("[data-live]")
        expect(live).to_have_attribute("data-live", "live")
        wait_until("the page listens", lambda: len(front.listeners) == 1)
        page.evaluate(hide, True)
        wait_until("it listens no more", lambda: not front.listeners)
        page.evaluate(hide, False)
        wait_until("it listens again", lambda: len(front.listeners) == 1)
        expect(live).to_have_attribute("data-live", "live")


def test_what_the_policy_forbids_is_noticed(windows):
    window = windows()
    window.page.goto(window.console)
    window.page.evaluate("""document.body.append(Object.assign(document.createElement("img"), { src: "http://127.0.0.1:9/x" }),
        Object.assign(document.createElement("script"), { textContent: "window.stolen = 1" }))""")
    noticed = wait_until("both are reported", lambda: len(reports := policy_reports(window)) > 1 and reports)
    assert any("img-src" in report for report in noticed) and any("script-src" in report for report in noticed)
    assert window.page.evaluate("window.stolen") is None
    window.wrong.clear()


def policy_reports(window):
    # Events are heard while the page is asked for something.
    window.page.wait_for_timeout(50)
    return [wrong for wrong in window.wrong if wrong.startswith("policy:")]


def test_usage_adds_up_and_comes_as_a_file(admin, fleet):
    with fleet.user() as (user, key):
        for _ in range(3):
            assert ask(fleet, key, tokens=5).status_code == 200
        page = admin.open(f"usage?user={user}")
        row = row_of(page, user)
        expect(row.locator("td").nth(1)).to_have_text("3")
        expect(row.locator("td").nth(4)).to_have_text("15")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download CSV").click()
        assert download.value.path().read_text().splitlines()[1].startswith(f"{user},3,")


def test_changes_say_who_changed_what_and_come_as_a_file(admin, fleet):
    with fleet.user(requests_per_minute=5) as (user, _):
        assert fleet.admin("PUT", f"/users/{user}/limits", json={"requests_per_minute": 7}).status_code == 200
        assert fleet.admin("PUT", f"/users/{user}/limits", json={"weight": -1}).status_code == 400
        page = admin.open("changes")
        page.get_by_label("Target").fill(user)
        page.get_by_role("button", name="Search").click()
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(3)
        expect(rows.nth(0)).to_contain_text("refused (400)")
        changed = rows.nth(1)
        for text in ["configured key", "admin", "PUT /admin/users/{id}/limits", user, "requests_per_minute: 5 → 7", "done (200)"]:
            expect(changed).to_contain_text(text)
        page.get_by_label("Method").select_option("POST")
        page.get_by_role("button", name="Search").click()
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("POST /admin/users")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download CSV").click()
        heading, *lines = download.value.path().read_text().splitlines()
        assert heading.startswith("seq,at,admin,") and len(lines) == 1 and user in lines[0]


def test_more_changes_come_page_by_page(admin, fleet):
    with fleet.user() as (user, _):
        for requests in range(60):
            assert fleet.admin("PUT", f"/users/{user}/limits", json={"requests_per_minute": requests}).status_code == 200
        page = admin.open(f"changes?target={user}")
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("tbody tr")).to_have_count(61)
        expect(page.get_by_role("button", name="Show more")).to_have_count(0)


@pytest.mark.parametrize("path", ["now", "requests", "users", "groups", "models", "usage", "admins", "changes"])
def test_each_page_shows_what_there_is(admin, path):
    page = admin.open(path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("main table, main .card, main p.quiet").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
