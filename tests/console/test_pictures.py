"""Pictures of each page in light and dark, with a fleet at work; `PICTURES=1` takes those in docs/pictures anew."""

import os
import pathlib
import shutil

import pytest
from playwright.sync_api import expect

from support import wait_until

ADMIN_PAGES = ["now", "requests", "users", "groups", "models", "usage", "admins", "changes"]
ADMINISTRATORS = [("eve", "operator"), ("victor", "viewer")]
GROUP = "research"
DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/pictures"
@pytest.fixture(scope="module")
def busy(fleet):
    """A fleet at work for as long as pictures are taken; a key of one of those who use it."""
    set_traffic(fleet, True)
    wait_until("some wait", lambda: fleet.admin("GET", "/queue").json()["queued"] > 3, seconds=60)
    made = fleet.admin("POST", "/users/alice/keys", json={"name": "laptop"})
    assert made.status_code == 201, made.text
    group = {"group_id": GROUP, "tokens_per_month": 2_000_000, "weight": 2, "max_concurrency": 16}
    assert fleet.admin("POST", "/groups", json=group).status_code == 201
    for user in ["alice", "carol"]:
        assert fleet.admin("PATCH", f"/users/{user}", json={"group": GROUP}).status_code == 200
    for name, role in ADMINISTRATORS:
        assert fleet.admin("POST", "/admins", json={"name": name, "role": role}).status_code == 201
    yield made.json()["api_key"]
    for name, _ in ADMINISTRATORS:
        fleet.admin("DELETE", f"/admins/{name}")
    fleet.admin("DELETE", f"/groups/{GROUP}", params={"members": "release"})
    set_traffic(fleet, False)


def set_traffic(fleet, is_on: bool):
    answer = fleet.admin("PUT", "/demo", json={"traffic": is_on})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    taken = tmp_path_factory.mktemp("pictures")
    yield taken
    if os.environ.get("PICTURES") == "1":
        for picture in DOCS.iterdir():
            shutil.copy(taken / picture.name, picture)


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
    window.open(f"groups/{GROUP}")
    take(page, folder / f"group-{scheme}.png")
    window.open("requests")
    page.locator("tbody a").first.click()
    expect(page.locator(".line")).to_be_visible()
    take(page, folder / f"story-{scheme}.png")
    take(windows(**options).sign_in(busy), folder / f"me-{scheme}.png")
