"""Can everybody use the console? By keyboard alone, in light and dark, on a phone, without motion."""

import uuid

import pytest
from playwright.sync_api import expect

from conftest import axe

PAGES = ["now", "requests", "users", "users/user-123", "groups", "models", "usage", "admins", "changes"]
DIALOGS = [("users", "Create user"), ("users/user-123", "Rotate default"), ("groups", "Create group"), ("models", "Pull"),
           ("admins", "Create administrator"), ("now", "Drain slow")]
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
AXE = axe()


def findings(page) -> list[str]:
    """What the checker has to say, as `rule: element`."""
    page.evaluate(AXE)
    result = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [f"{violation['id']}: {node['html']}" for violation in result["violations"] for node in violation["nodes"]]


def settle(page):
    """Waits until a page shows what it has loaded."""
    expect(page.locator("main table, main .card, main p.quiet").first).to_be_visible()
    expect(page.get_by_text("Loading…")).to_have_count(0)


@SCHEMES
def test_the_checker_finds_nothing(windows, fleet, scheme):
    window = windows(color_scheme=scheme)
    window.page.goto(window.console)
    expect(window.page.get_by_label("Key")).to_be_focused()
    assert findings(window.page) == []
    page = window.sign_in(fleet.admin_key)
    for path in PAGES:
        window.open(path)
        settle(page)
        assert findings(page) == [], path
    for path, button in DIALOGS:
        window.open(path)
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert findings(page) == [], button
        page.keyboard.press("Escape")


@SCHEMES
def test_the_checker_finds_nothing_on_a_users_page(windows, user_key, scheme):
    page = windows(color_scheme=scheme).sign_in(user_key)
    settle(page)
    assert findings(page) == []


def test_the_checker_can_find_something(windows):
    window = windows()
    window.page.goto(window.console)
    expect(window.page.get_by_label("Key")).to_be_visible()
    window.page.evaluate("document.querySelector('label').remove()")
    assert any(finding.startswith("label") for finding in findings(window.page))


def test_everything_is_reached_by_keyboard(windows, fleet):
    window = windows()
    page = window.page
    page.goto(window.console)
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.type(fleet.admin_key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")

    for letter, title in [("r", "Requests"), ("u", "Users"), ("g", "Groups"), ("m", "Models"), ("s", "Usage"), ("a", "Administrators"), ("c", "Changes"), ("n", "Now"), ("u", "Users")]:
        page.keyboard.press("g")
        page.keyboard.press(letter)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.keyboard.press("/")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    # Letters are letters in a field.
    page.keyboard.type("gn?")
    expect(page.get_by_role("heading", level=1)).to_have_text("Users")
    tab_to(page, "Create user")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("User id")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Create user")).to_be_focused()

    # A user comes and goes.
    user = f"typed-{uuid.uuid4().hex[:8]}"
    page.keyboard.press("Enter")
    tab_to(page, "User id")
    page.keyboard.type(user)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text(f"sk-{user}-")
    tab_to(page, "I have copied it")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=user)).to_be_visible()
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Search", exact=True)).to_be_visible()
    assert fleet.admin("GET", f"/users/{user}").status_code == 404

    page.keyboard.press("g")
    page.keyboard.press("n")
    tab_to(page, "Drain slow")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Drain slow")).to_be_focused()
    tab_to(page, "Sign out")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key")).to_be_focused()


def tab_to(page, name: str):
    """Goes to the button or link of that text, or the field of that label."""
    text = "(document.activeElement?.labels?.[0] ?? document.activeElement)?.innerText?.trim().replace(/\\s+/g, ' ')"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(text) == name:
            return
    pytest.fail(f"{name} is not reached by Tab")


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_scrolls_in_one_direction(windows, fleet, path):
    window = windows(viewport={"width": 360, "height": 740})
    page = window.sign_in(fleet.admin_key)
    window.open(path)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_moves_for_those_who_want_that(windows):
    window = windows(reduced_motion="reduce")
    window.page.goto(window.console)
    button = window.page.get_by_role("button", name="Sign in")
    assert button.evaluate("(button) => getComputedStyle(button).transitionDuration") == "0s"
