"""A browser at the console of a demo of our own. No test may see a script error, a report of the policy, or a request to
another origin."""

import dataclasses
import pathlib
import shutil
import urllib.parse

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from front import Front
from support import Gateway, demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Nothing that would ask anybody but the gateway.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
# Kept by the browser's window over changes of the page.
REPORTS = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));"""

expect.set_options(timeout=10_000)


@dataclasses.dataclass
class Window:
    """A page of the console in a browser profile of its own, and what went wrong in it."""

    page: Page
    console: str
    wrong: list[str]

    def sign_in(self, key: str) -> Page:
        self.page.goto(self.console)
        self.page.get_by_label("Key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()
        return self.page

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.console}#/{path}")
        return self.page


@pytest.fixture(scope="session")
def fleet():
    """A demo of our own, as the tests drain its nodes and delete its models."""
    with demo() as gateway:
        yield gateway


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def windows(fleet, browser):
    """Opens windows, each in a profile of its own; afterwards nothing may have gone wrong in them."""
    opened = []

    def open_window(console: str = f"{fleet.url}/console", **options) -> Window:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.add_init_script(REPORTS)
        window = Window(context.new_page(), console, [])
        watch(window)
        opened.append(window)
        return window

    yield open_window
    for window in opened:
        window.page.context.close()
    assert [wrong for window in opened for wrong in window.wrong] == []


def watch(window: Window):
    own = urllib.parse.urlsplit(window.console).netloc

    def asked(request):
        url = urllib.parse.urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.netloc != own:
            window.wrong.append(f"asked {request.url}")

    def said(message):
        # The browser itself logs every answer that is an error; whoever is not signed in hears 401.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            window.wrong.append(message.text)

    window.page.on("request", asked)
    window.page.on("console", said)
    window.page.on("pageerror", lambda error: window.wrong.append(str(error)))


@pytest.fixture
def admin(windows, fleet) -> Window:
    """A window in which the admin is signed in."""
    window = windows()
    window.sign_in(fleet.admin_key)
    return window


@pytest.fixture
def user_key(fleet: Gateway):
    with fleet.user() as (_, key):
        yield key


def axe() -> str:
    """The accessibility checker that the package brings along."""
    import axe_playwright_python

    return (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
