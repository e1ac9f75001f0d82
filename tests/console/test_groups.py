"""Does the console make groups of users, and say what they use together?"""

import contextlib
import uuid

from playwright.sync_api import expect

from support import CHAT_MODEL
from test_console import ask, confirm, row_of


@contextlib.contextmanager
def group(fleet, **terms):
    name = f"group-{uuid.uuid4().hex[:8]}"
    made = fleet.admin("POST", "/groups", json={"group_id": name} | terms)
    assert made.status_code == 201, made.text
    try:
        yield name
    finally:
        fleet.admin("DELETE", f"/groups/{name}", params={"members": "release"})


def bar(page, limit):
    return page.locator(".bar").filter(has_text=limit)


def test_a_group_is_made_filled_changed_and_deleted(admin, fleet):
    name = f"made-{uuid.uuid4().hex[:8]}"
    with fleet.user() as (user, key):
        page = admin.open("groups")
        page.get_by_role("button", name="Create group").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Group id").fill(name)
        dialog.get_by_label("Tokens per month").fill("1000")
        dialog.get_by_label("Weight").fill("2.5")
        dialog.get_by_label("Models").fill(CHAT_MODEL)
        confirm(page, "Create group")
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        expect(page.locator(".pairs")).to_contain_text("2.5")
        expect(page.locator(".pairs")).to_contain_text(CHAT_MODEL)

        page.get_by_role("button", name="Add a user").click()
        dialog.get_by_label("User id").fill(user)
        confirm(page, "Add a user")
        expect(row_of(page, user)).to_be_visible()
        assert ask(fleet, key, tokens=40).status_code == 200
        used = fleet.admin("GET", f"/groups/{name}").json()["limits"][0]["used"]
        assert used >= 40
        page.reload()
        expect(bar(page, "Tokens per month")).to_contain_text(f"{used} of 1K")
        admin.open("usage")
        month = page.get_by_role("region", name="This month against the limits")
        expect(bar(month, name)).to_contain_text(f"{used} of 1K")
        admin.open(f"usage?by=group&group={name}")
        expect(row_of(page, name).locator("td").nth(1)).to_have_text("1")

        admin.open(f"groups/{name}").get_by_role("button", name="Edit").click()
        expect(dialog.get_by_label("Weight")).to_have_value("2.5")
        dialog.get_by_label("Tokens per month").fill("")
        dialog.get_by_label("Concurrent requests").fill("3")
        dialog.get_by_label("Models").fill("")
        confirm(page, "Save")
        expect(bar(page, "Concurrent requests")).to_contain_text("0 of 3")
        expect(bar(page, "Tokens per month")).to_have_count(0)
        expect(page.locator(".pairs")).to_contain_text("all")

        page.get_by_role("button", name=f"Remove {user}").click()
        confirm(page, "Remove")
        expect(page.get_by_text("No users.")).to_be_visible()
        assert fleet.admin("GET", f"/users/{user}").json()["group"] is None
        page.get_by_role("button", name="Delete", exact=True).click()
        confirm(page, "Delete")
        expect(page.get_by_role("heading", name="Groups")).to_be_visible()
        expect(row_of(page, name)).to_have_count(0)


def test_a_user_is_made_in_a_group_and_sees_its_limits(admin, windows, fleet):
    with group(fleet, tokens_per_month=5_000) as name:
        user = f"in-{uuid.uuid4().hex[:8]}"
        page = admin.open("users")
        page.get_by_role("button", name="Create user").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("User id").fill(user)
        dialog.get_by_label("Group").fill(name)
        confirm(page, "Create user")
        secret = dialog.get_by_label("The key", exact=True).inner_text()
        confirm(page, "I have copied it")
        try:
            expect(page.get_by_role("link", name=name)).to_be_visible()
            theirs = windows().sign_in(secret)
            expect(theirs.locator("main .verdict")).to_have_text(f"You are {user}, in the group {name}.")
            expect(theirs.get_by_role("heading", name="Limits of your group")).to_be_visible()
            expect(bar(theirs, "Tokens per month")).to_contain_text("of 5K")
        finally:
            fleet.admin("DELETE", f"/users/{user}")


def test_groups_are_found_by_name(admin, fleet):
    with group(fleet, weight=3) as name, group(fleet):
        page = admin.open("groups")
        page.get_by_label("Search", exact=True).fill(name)
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(row_of(page, name)).to_contain_text("3")
