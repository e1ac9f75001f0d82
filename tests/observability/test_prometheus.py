"""Does a real Prometheus, over a gateway under load with a node that dies, see on every panel what clients saw?"""

import math

import pytest
import tools
from stand import CURSED, MODELS, NODES

QUERIES = pytest.mark.parametrize("where,panel,target", tools.queries(), ids=[each[0] for each in tools.queries()])
# What this load does not cause.
STAYS_ZERO = {
    **{f"gw-slo / First token / {window}": "every first token comes within 2.5 s" for window in "ABCD"},
    "gw-fleet / Tried again / B": "no client of this load tries again by itself",
    **{f"gw-fleet / Usage rows on their way / {what}": "this gateway needs no Postgres" for what in "BC"},
    "gw-fleet / Usage rows on their way / D": "sums agree with their rows",
    **{f"gw-fleet / Who schedules / {what}": "this gateway is alone, without a lease" for what in "BC"},
    "gw-fleet / Link delay / A": "this gateway has no link",
    "gw-fleet / Certificate / A": "this gateway speaks no TLS",
    "gw-node / Canaries / A": "no node of this load falls silent",
    "gw-node / Not believed / B": "no node of this load reports impossible counts",
}


def number(text: str) -> float:
    return float(text)


def answer(stand, target) -> list[dict]:
    """What Grafana would get."""
    expr = tools.filled(target["expr"], interval="5s", span="2m")
    if target["instant"]:
        return [{"metric": series["metric"], "values": [series["value"]]} for series in stand.instant(expr)]
    return stand.over_time(expr)


@QUERIES
def test_every_panel_shows_something(stand, where, panel, target):
    found = answer(stand, target)
    assert found, f"no data: {target['expr']}"
    shown = [number(value) for series in found for _, value in series["values"] if value != "NaN"]
    assert all(not math.isinf(value) for value in shown)
    if where not in STAYS_ZERO:
        assert any(shown), "never anything but 0"
    if where in STAYS_ZERO:
        assert not any(shown), f"this moves after all: {STAYS_ZERO[where]}"


MOVES = ["gateway_requests_total", "gateway_retries_total", "gateway_rate_limited_total", "gateway_tokens_total",
         "gateway_circuit_transitions_total", "gateway_user_tokens_total", "gateway_user_requests_total",
         "gateway_routing_decisions_total", "gateway_node_requests_total", "gateway_request_duration_seconds_count",
         "gateway_time_to_first_token_seconds_count", "gateway_time_per_output_token_seconds_count",
         "gateway_queue_wait_seconds_count", "gateway_overhead_seconds_count", "gateway_node_probe_duration_seconds_count",
         "gateway_node_request_duration_seconds_count"]


@pytest.mark.parametrize("metric", MOVES)
def test_counters_move(stand, metric):
    assert stand.value(f"sum({metric})") > 0


@pytest.mark.parametrize("gauge", ["gateway_queue_depth", "gateway_requests_in_flight", "gateway_node_slots_in_use",
                                   "gateway_node_model_loaded", "gateway_node_vram_bytes", "gateway_usage_rows_waiting"])
def test_gauges_rose_and_what_must_fell_again(stand, gauge):
    highest = max(number(value) for _, value in stand.over_time(f"sum({gauge})")[0]["values"])
    assert highest > 0
    if "loaded" not in gauge and "vram" not in gauge:
        assert stand.value(f"sum({gauge})") == 0


def test_requests_agree_with_what_clients_counted(stand):
    counted = stand.counted.outcomes
    assert counted["ok"] > 50 and counted["rate_limited"] > 0 and counted["client_error"] > 0, counted
    assert counted["upstream_error"] > 0, counted
    route = 'route="/v1/chat/completions"'
    for outcome in ("ok", "rate_limited", "client_error", "upstream_error", "overloaded", "timeout", "client_cancelled"):
        assert stand.value(f'sum(gateway_requests_total{{{route},outcome="{outcome}"}})') == counted[outcome], outcome
    assert stand.value(f"sum(gateway_request_duration_seconds_count{{{route}}})") == counted.total()
    for model in [*MODELS, CURSED]:
        assert stand.value(f'sum(gateway_requests_total{{{route},model="{model}"}})') == stand.counted.by_model[model]
    assert stand.value("sum(gateway_rate_limited_total)") == counted["rate_limited"]


def test_tokens_agree_with_clients_and_with_the_rows(stand):
    for kind, field in [("input", "prompt_tokens"), ("output", "completion_tokens")]:
        exported = stand.value(f'sum(gateway_tokens_total{{type="{kind}"}})')
        assert exported == sum(row[field] for row in stand.rows)
        completed = sum(row[field] for row in stand.rows if row["status"] == "completed")
        assert completed == stand.counted.tokens[kind] > 0
        assert stand.value(f'sum(gateway_user_tokens_total{{type="{kind}"}})') == exported


def test_users_beyond_the_cap_are_one(stand):
    labels = {series["metric"]["user"] for series in stand.instant("sum by (user) (gateway_user_requests_total)")}
    assert labels == {"ann", "bob", "carl", "_other"}
    refused = stand.value('sum(gateway_user_requests_total{user="carl",code_class="4xx"})')
    assert refused == stand.counted.outcomes["rate_limited"]


def test_first_tokens_agree_with_the_clients_stopwatch(stand):
    """The mean over streams and plain answers is below what streams alone took with the way to the client."""
    measured = sum(stand.counted.first_tokens) / len(stand.counted.first_tokens)
    total, count = (stand.value(f"sum(gateway_time_to_first_token_seconds_{part})") for part in ("sum", "count"))
    streams = stand.value('sum(gateway_time_per_output_token_seconds_count)')
    assert streams == len(stand.counted.first_tokens)
    assert count == sum(row["time_to_first_token_ms"] is not None for row in stand.rows)
    assert 0.3 * measured < total / count < 3 * measured


def test_a_panel_agrees_with_the_clients(stand):
    """Not the raw counter alone: the query of a panel, through `increase`, with what it must guess at the edges."""
    (target,) = next(panel["targets"] for board in tools.boards() if board["uid"] == "gw-usage"
                     for panel in tools.panels(board) if panel["title"] == "Requests")
    shown = stand.value(tools.filled(target["expr"], span="2m"))
    assert shown == pytest.approx(stand.counted.outcomes.total(), rel=0.1)


def test_attempts_add_up(stand):
    attempts = stand.value("sum(gateway_node_requests_total)")
    assert attempts == stand.value("sum(gateway_node_request_duration_seconds_count)")
    assert attempts == stand.value("sum(gateway_routing_decisions_total)")
    assert attempts == stand.value("sum(gateway_queue_wait_seconds_count)")
    assert stand.value('sum(gateway_node_requests_total{outcome="ok"})') == stand.counted.outcomes["ok"]
    assert stand.value("sum(gateway_retries_total)") == stand.value('sum(gateway_routing_decisions_total{reason="fallback"})')


def test_the_node_that_died_is_seen_as_dead(stand):
    up = {series["metric"]["node"]: number(series["value"][1]) for series in stand.instant("gateway_node_up")}
    del up["broken"]
    assert up == {name: float(name != "doomed") for name in NODES}
    assert stand.value('gateway_circuit_transitions_total{node="doomed",to="open"}') >= 1
    assert stand.value('sum(gateway_node_requests_total{node="doomed",outcome=~"unreachable|reset"})') >= 1


def test_the_node_that_fails_everything_is_seen_failing(stand):
    failed = stand.value('gateway_node_requests_total{node="broken",outcome="crashed"}')
    assert failed > 0 and stand.value('gateway_node_requests_total{node="broken",outcome="ok"}') == 0
    rejected = stand.value('sum(gateway_queue_rejected_total{reason=~"exhausted|no_node"})')
    assert rejected == stand.counted.by_model[CURSED]
    for to in ("open", "half_open"):
        assert stand.value(f'gateway_circuit_transitions_total{{node="broken",to="{to}"}}') >= 1


@pytest.mark.parametrize("rule", tools.rules(), ids=lambda rule: rule["alert"])
def test_every_alert_looks_at_something(stand, rule):
    stand.instant(rule["expr"])
    for metric, matchers in tools.SELECTOR.findall(rule["expr"]):
        assert metric in tools.ABSENT or stand.instant(metric + matchers), f"{metric}{matchers} is not there"


def test_alerts_are_evaluated_and_the_dead_node_is_about_to_fire(stand):
    loaded = [rule["name"] for group in stand.ask("rules")["groups"] for rule in group["rules"]]
    assert sorted(loaded) == sorted(rule["alert"] for rule in tools.rules())
    states = {(series["metric"]["alertname"], series["metric"].get("node")): series["metric"]["alertstate"]
              for series in stand.instant("ALERTS")}
    assert states[("NodeDown", "doomed")] in ("pending", "firing")
    assert states[("NodeFlapping", "broken")] == "firing"
    assert not any(name in ("GatewayDown", "AllNodesDown", "UsageStorageAway") for name, _ in states), states
