"""Does the first page keep up with a large fleet? As much as the gateway tells at most: 200 nodes here, 200 requests that
run, and 200 that wait of 1,000."""

import itertools
import json
import time

from playwright.sync_api import expect

from front import Front

NODES, SHOWN, WAITING = 200, 200, 1_000
# A frame in which the page holds up nothing, milliseconds of its thread's own time.
FRAME_MS = 50
TICKS = 8


def request(number: int, tick: int, is_running: bool) -> dict:
    node = f"node-{number % NODES:03}" if is_running else None
    return {
        "request_id": f"{'r' if is_running else 'w'}-{number}",
        "state": "running" if is_running else "waiting",
        "user_id": f"user-{number % 37}",
        "model": f"model-{number % 3}",
        "since_ms": 1000 * tick + number,
        "node": node,
        "completion_tokens": 40 * tick,
        "position": None if is_running else number + 1 - 20 * tick,
        "expected_ms": None if is_running else 100 * number,
        "summary": f"{node} answers" if is_running else "waits for a slot on node-007, expected in 4.1 s",
    }


def node(number: int, tick: int) -> dict:
    models = [
        {"name": f"model-{each}:latest", "vram_bytes": 4_000_000_000, "slots_used": 1, "slots_total": 4,
         "tokens_per_second": 50}
        for each in range(3)
    ]
    return {"name": f"node-{number:03}", "state": "up", "since": "2026-11-27T00:00:00Z", "why": None, "version": "0.33.0",
            "models": models, "loading": None, "last_error": None}


def events():
    for tick in itertools.count():
        fleet = {
            "at": "2026-11-27T00:00:00Z", "tick": tick, "nodes": [node(number, tick) for number in range(NODES)],
            "nodes_left_out": 0, "running": [request(number + 20 * tick, tick, True) for number in range(SHOWN)],
            "running_left_out": 0, "running_elsewhere": 0,
            "waiting": [request(number + 20 * tick, tick, False) for number in range(SHOWN)],
            "waiting_left_out": WAITING - SHOWN, "waiting_elsewhere": 0,
        }
        name, fleet = ("tick", fleet) if tick else ("snapshot", fleet | {"changes": []})
        yield f"event: {name}\ndata: {json.dumps(fleet)}\n\n".encode()
        time.sleep(1)


def test_a_large_fleet_holds_up_no_frame(windows, fleet):
    with Front(fleet.url) as front:
        front.events = events
        window = windows(front.console)
        page = window.sign_in(fleet.admin_key)
        expect(page.locator(".card")).to_have_count(NODES)
        expect(page.locator("main .verdict")).to_contain_text("1000 waiting")
        cdp = page.context.new_cdp_session(page)
        # The thread's own time, since other programs share the machine.
        cdp.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})
        cdp.send("Performance.enable")
        totals = []
        for _ in range(TICKS + 1):
            totals.append(busy(cdp))
            page.wait_for_timeout(1000)

    spent = sorted(1000 * (after - before) for before, after in itertools.pairwise(totals))
    print(f"{spent[TICKS // 2]:.0f} ms a tick; all: {[round(each) for each in spent]}")
    assert spent[TICKS // 2] < FRAME_MS


def busy(cdp) -> float:
    metrics = {metric["name"]: metric["value"] for metric in cdp.send("Performance.getMetrics")["metrics"]}
    return metrics["TaskDuration"]
