"""Pictures of each page in light and dark, with a fleet at work; `PICTURES=1` puts them into docs/pictures."""

import concurrent.futures
import contextlib
import os
import pathlib
import threading

import pytest
from playwright.sync_api import expect

from support import wait_until

ADMIN_PAGES = ["now", "requests", "users", "models", "usage", "changes"]
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/pictures"
# Names, how many requests each keeps open, and the model.
PEOPLE = [("alice", 6, "llama3.2"), ("bob", 5, "llava"), ("carol", 4, "llama3.2:1b"), ("dan", 4, "llama3.2")]


@pytest.fixture(scope="module")
def busy(fleet):
    """A fleet at work for as long as pictures are taken; the names of the users and a key of the first."""
    stop = threading.Event()

    def keep_asking(key, model, tokens):
        body = {"model": model, "messages": [{"role": "user", "content": f"[[n={tokens}]]"}], "stream": True}
        while not stop.is_set():
            fleet.request("POST", "/v1/chat/completions", key, json=body)

    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(concurrent.futures.ThreadPoolExecutor(max_workers=32))
        stack.callback(stop.set)
        keys = []
        for name, open_requests, model in PEOPLE:
            made = fleet.admin("POST", "/users", json={"user_id": name, "requests_per_minute": 600, "tokens_per_day": 500_000})
            assert made.status_code == 201, made.text
            stack.callback(fleet.admin, "DELETE", f"/users/{name}")
            keys.append(made.json()["api_key"])
            for place in range(open_requests):
                workers.submit(keep_asking, keys[-1], model, 150 + 40 * place)
        wait_until("some wait", lambda: fleet.admin("GET", "/queue").json()["queued"] > 3, seconds=30)
        yield keys[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if os.environ.get("PICTURES") == "1":
        DOCS.mkdir(exist_ok=True)
        return DOCS
    return tmp_path_factory.mktemp("pictures")


def take(page, path: pathlib.Path):
    expect(page.locator("main table, main .card, main .line").first).to_be_visible()
    expect(page.get_by_text("Loading…")).to_have_count(0)
    # The plot, where there is one, draws itself a moment later.
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    assert path.stat().st_size > 10_000, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_taken_of_each_page(windows, fleet, busy, folder, scheme):
    options = {"color_scheme": scheme, "viewport": {"width": 1280, "height": 860}, "locale": "en-GB", "timezone_id": "UTC"}
    window = windows(**options)
    page = window.sign_in(fleet.admin_key)
    for path in ADMIN_PAGES:
        window.open(path)
        take(page, folder / f"{path}-{scheme}.png")
    window.open("requests")
    page.locator("tbody a").first.click()
    expect(page.locator(".line")).to_be_visible()
    take(page, folder / f"story-{scheme}.png")
    take(windows(**options).sign_in(busy), folder / f"me-{scheme}.png")
