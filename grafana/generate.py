"""Writes grafana/dashboards/*.json. Edit the boards here: tests/observability fails where the JSON differs.

    python3 grafana/generate.py
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The routes that make a node work: not health checks, scrapes and listings.
WORK = 'route=~"/v1/(chat/completions|completions|embeddings|responses|messages)|/api/(chat|generate|embed|embeddings)"'
FAILED = 'outcome=~"upstream_error|timeout|overloaded"'
COLOURS = {
    "ok": "green", "client_error": "yellow", "rate_limited": "orange", "client_cancelled": "text", "cancelled": "text",
    "overloaded": "purple", "upstream_error": "red", "timeout": "dark-red", "input": "blue", "output": "green",
    "warm": "green", "cold": "blue", "fallback": "orange", "open": "red", "half_open": "yellow", "closed": "green",
    "2xx": "green", "4xx": "orange", "5xx": "red",
}
NO_TRAFFIC = {"type": "special", "options": {"match": "nan", "result": {"text": "No traffic", "color": "text", "index": 0}}}
NO_DATA = {"type": "special", "options": {"match": "null", "result": {"text": "No data", "color": "text", "index": 1}}}


# Queries

def series(metric, *matchers):
    return metric + "{" + ",".join(('job=~"$job"', 'instance=~"$instance"', *matchers)) + "}"


def rate(metric, *matchers, window="$__rate_interval"):
    return f"rate({series(metric, *matchers)}[{window}])"


def increase(metric, *matchers, window="$__range"):
    return f"increase({series(metric, *matchers)}[{window}])"


def quantile(q, metric, *matchers, by=""):
    labels = "le, " + by if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(metric + '_bucket', *matchers)}))"


def share(part, whole):
    """0 when there is nothing: no traffic is no failure."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def error_ratio(*matchers, window="$__rate_interval"):
    failed = rate("gateway_requests_total", WORK, FAILED, *matchers, window=window)
    return share(f"sum({failed})", f"sum({rate('gateway_requests_total', WORK, *matchers, window=window)})")


def slow_ratio(window):
    """Share of requests whose first token took longer than the objective."""
    within = rate("gateway_time_to_first_token_seconds_bucket", 'le="2.5"', window=window)
    return f"1 - sum({within}) / sum({rate('gateway_time_to_first_token_seconds_count', window=window)})"


# Panels

def thresholds(*steps):
    """`steps` are (from, colour) pairs; below the first is green."""
    first = [{"color": "green", "value": None}]
    return {"mode": "absolute", "steps": first + [{"color": colour, "value": value} for value, colour in steps]}


def rising(*steps):
    """As above, but below the first is bad."""
    limits = thresholds(*steps)
    limits["steps"][0]["color"] = "red"
    return limits


def targets(queries, instant=False, table=False, heatmap=False):
    made = []
    for index, (expr, legend) in enumerate(queries):
        target = {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
        target |= {"instant": True, "range": False} if instant else {"instant": False, "range": True}
        if table or heatmap:
            target["format"] = "table" if table else "heatmap"
        made.append(target)
    return made


def overrides(names):
    return [{"matcher": {"id": "byName", "options": name},
             "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": COLOURS[name]}}]} for name in names]


def panel(kind, title, description, queries, unit, size, options, custom=None, limits=None, colours=(), decimals=None,
          minimum=None, maximum=None, mappings=None, **how):
    defaults = {"unit": unit, "thresholds": limits or thresholds(), "mappings": mappings or [NO_TRAFFIC, NO_DATA],
                "color": {"mode": "thresholds" if limits or kind in ("stat", "gauge") else "palette-classic"}}
    for key, value in [("decimals", decimals), ("min", minimum), ("max", maximum), ("custom", custom)]:
        if value is not None:
            defaults[key] = value
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE,
            "gridPos": {"w": size[0], "h": size[1]}, "targets": targets(queries, **how),
            "fieldConfig": {"defaults": defaults, "overrides": overrides(colours)}, "options": options}


def stat(title, description, expr, unit, limits=None, width=3, mappings=None, decimals=None, spark=True, legend="", height=4):
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
               "graphMode": "area" if spark else "none", "textMode": "auto", "justifyMode": "auto", "orientation": "auto"}
    return panel("stat", title, description, [(expr, legend)], unit, (width, height), options, limits=limits,
                 mappings=mappings, decimals=decimals)


def graph(title, description, queries, unit, size=(8, 8), stack=False, colours=(), limits=None, line=None, bars=False,
          minimum=0, maximum=None):
    custom = {"drawStyle": "bars" if bars else "line", "lineWidth": 1, "fillOpacity": 60 if bars else 25 if stack else 8,
              "showPoints": "never", "spanNulls": False, "lineInterpolation": "linear",
              "stacking": {"mode": stack if isinstance(stack, str) else "normal" if stack else "none", "group": "A"},
              "thresholdsStyle": {"mode": "line" if line else "off"}}
    options = {"legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max", "lastNotNull"]},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    made = panel("timeseries", title, description, queries, unit, size, options, custom=custom, limits=line,
                 colours=colours, minimum=minimum, maximum=maximum)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "palette-classic"}
    return made


def heatmap(title, description, metric, size=(12, 8)):
    expr = f"sum by (le) ({rate(metric + '_bucket', MODEL)})"
    options = {"calculate": False, "yAxis": {"unit": "s", "axisPlacement": "left"}, "cellGap": 1, "legend": {"show": True},
               "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5}, "filterValues": {"le": 1e-9},
               "rowsFrame": {"layout": "auto"}, "tooltip": {"mode": "single", "yHistogram": True}}
    return panel("heatmap", title, description, [(expr, "{{le}}")], "reqps", size, options, heatmap=True)


def table(title, description, queries, unit, size, rename, hide=(), colour=None, limits=None, mappings=None):
    options = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    custom = {"align": "auto", "cellOptions": {"type": colour or "auto"}, "filterable": True}
    made = panel("table", title, description, queries, unit, size, options, custom=custom, limits=limits,
                 mappings=mappings, instant=True, table=True)
    steps = [{"id": "merge", "options": {}}] if len(queries) > 1 else []
    organise = {"id": "organize", "options": {"excludeByName": {name: True for name in ("Time", *hide)},
                                              "renameByName": rename}}
    return made | {"transformations": steps + [organise]}


def bars(title, description, queries, unit, size=(8, 8)):
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "orientation": "horizontal",
               "displayMode": "gradient", "showUnfilled": True, "valueMode": "color"}
    made = panel("bargauge", title, description, queries, unit, size, options, minimum=0, instant=True)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "continuous-BlPu"}
    return made


def timeline(title, description, queries, mappings, size):
    options = {"mergeValues": True, "showValue": "auto", "rowHeight": 0.85, "alignValue": "left",
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "single"}}
    made = panel("state-timeline", title, description, queries, "none", size, options, mappings=mappings,
                 custom={"lineWidth": 0, "fillOpacity": 80})
    made["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    return made


def values(**texts):
    """Numbers shown as words, as `_1=("Up", "green")`."""
    options = {number[1:]: {"text": text, "color": colour, "index": index}
               for index, (number, (text, colour)) in enumerate(texts.items())}
    return [{"type": "value", "options": options}, NO_DATA]


def alerts(title, description, size):
    options = {"viewMode": "list", "groupMode": "default", "maxItems": 20, "sortOrder": 1,
               "stateFilter": {"firing": True, "pending": True, "noData": False, "normal": False, "error": True},
               "dashboardAlerts": False, "alertName": "", "alertInstanceLabelFilter": ""}
    return {"type": "alertlist", "title": title, "description": description, "datasource": DATASOURCE,
            "gridPos": {"w": size[0], "h": size[1]}, "options": options}


def text(title, words, size):
    return {"type": "text", "title": title, "description": "How to read this board.", "transparent": True,
            "gridPos": {"w": size[0], "h": size[1]}, "options": {"mode": "markdown", "content": words}}


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": 24, "h": 1}, "panels": []}


# Boards

def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "definition": query,
            "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1, "multi": True,
            "includeAll": True, "allValue": ".+", "hide": 0, "skipUrlSync": False, "options": [], "regex": "",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}


def arrange(panels):
    """Left to right, top to bottom; a row begins where the previous one ends."""
    x = y = height = 0
    for number, each in enumerate(panels, start=1):
        place = each["gridPos"]
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        place |= {"x": x, "y": y}
        each["id"] = number
        x, height = x + place["w"], max(height, place["h"])
    return panels


def board(uid, title, description, panels, variables=(), time="now-1h"):
    own = [variable("job", "Job", "label_values(gateway_build_info, job)"),
           variable("instance", "Instance", 'label_values(gateway_build_info{job=~"$job"}, instance)'), *variables]
    source = {"name": "datasource", "label": "Data Source", "type": "datasource", "query": "prometheus", "hide": 0,
              "multi": False, "includeAll": False, "refresh": 1, "regex": "", "options": [], "skipUrlSync": False,
              "current": {"selected": True, "text": "Prometheus", "value": "prometheus"}}
    link = {"type": "dashboards", "title": "Gateway", "tags": ["gateway"], "asDropdown": True, "includeVars": True,
            "keepTime": True, "icon": "external link", "targetBlank": False, "tooltip": "", "url": ""}
    return {"id": None, "uid": uid, "title": title, "description": description, "tags": ["gateway"], "schemaVersion": 41,
            "version": 1, "editable": False, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
            "time": {"from": time, "to": "now"}, "timepicker": {}, "links": [link], "annotations": {"list": []},
            "templating": {"list": [source, *own]}, "panels": arrange(panels)}


MODEL = 'model=~"$model"'
NODE = 'node=~"$node"'
NODE_STATE = values(_0=("Down", "red"), _1=("On trial", "yellow"), _2=("Up", "green"))
NODE_VARIABLE = variable("node", "Node", 'label_values(gateway_node_up{job=~"$job",instance=~"$instance"}, node)')
MODEL_VARIABLE = variable("model", "Model", 'label_values(gateway_tokens_total{job=~"$job",instance=~"$instance"}, model)')
USER_VARIABLE = variable("user", "User", 'label_values(gateway_user_tokens_total{job=~"$job",instance=~"$instance"}, user)')
SECONDS = "s"


def node_state(*matchers):
    """2 up, 1 on trial, 0 down; if gateways disagree, the best state counts."""
    up = "max by (node) (" + series("gateway_node_state", 'state="up"', *matchers) + ")"
    trial = "max by (node) (" + series("gateway_node_state", 'state="suspect"', *matchers) + ")"
    return f"clamp_max(2 * {up} + {trial}, 2)"


def headline():
    late = thresholds((2.5, "yellow"), (10, "red"))
    return [
        stat("Requests", "Requests per second to the routes that need a node.",
             f"sum({rate('gateway_requests_total', WORK)})", "reqps"),
        stat("Input", "Prompt tokens per second, counted when a request ends.",
             "sum(" + rate("gateway_tokens_total", 'type="input"') + ")", "count:tok/s"),
        stat("Output", "Answer tokens per second, counted when a request ends.",
             "sum(" + rate("gateway_tokens_total", 'type="output"') + ")", "count:tok/s"),
        stat("Failing", "Share of requests that failed through no fault of the client: a node's error, a deadline, a full "
             "queue. Yellow from 1 %, red from 5 %.",
             error_ratio(), "percentunit", thresholds((0.01, "yellow"), (0.05, "red"))),
        stat("First token, p95", "Time to the first token, waiting included. 95 % of requests were faster. Yellow from "
             "2.5 s, red from 10 s.", quantile(0.95, "gateway_time_to_first_token_seconds"), SECONDS, late),
        stat("Per token, p95", "Time for each further token of a stream. 95 % of streams were faster. 0.1 s is about as "
             "fast as people read.", quantile(0.95, "gateway_time_per_output_token_seconds"), SECONDS,
             thresholds((0.1, "yellow"), (0.3, "red"))),
        stat("Whole answer, p95", "From arrival to the end of the answer. 95 % of requests were faster.",
             quantile(0.95, "gateway_request_duration_seconds", WORK), SECONDS, thresholds((30, "yellow"), (120, "red"))),
        stat("Nodes down", "Nodes that cannot be given requests at the moment.",
             "count(max by (node) (" + series("gateway_node_up") + ")) - sum(max by (node) (" + series("gateway_node_up") + "))",
             "none", thresholds((1, "red")), spark=False),
    ]


def fleet():
    return board("gw-fleet", "Gateway / Fleet", "Is the service healthy, at a glance?", [
        *headline(),
        row("Now"),
        timeline("Nodes", "Each node's state: up; on trial, or with one recent failure; down.",
                 [(node_state(), "{{node}}")], NODE_STATE, (8, 7)),
        graph("Running and waiting", "All requests in progress, those running on nodes, and those waiting for a slot.",
              [("sum(" + series("gateway_requests_in_flight") + ")", "all"),
               ("sum(" + series("gateway_node_slots_in_use") + ")", "on nodes"),
               ("sum(" + series("gateway_queue_depth") + ")", "waiting")], "none", (8, 7)),
        alerts("Alerts", "Alerts that are firing or pending.", (8, 7)),
        row("Traffic"),
        graph("Requests by how they ended", "client_error: the request was wrong; rate_limited: the user's limit; "
              "overloaded, upstream_error, timeout: our fault.",
              [(f"sum by (outcome) ({rate('gateway_requests_total', WORK)})", "{{outcome}}")], "reqps", stack=True,
              colours=["ok", "client_error", "rate_limited", "client_cancelled", "overloaded", "upstream_error", "timeout"]),
        graph("Tokens", "Counted when a request ends.",
              [(f"sum by (type) ({rate('gateway_tokens_total')})", "{{type}}")], "count:tok/s",
              colours=["input", "output"]),
        graph("Failing share", "Share of requests that failed through no fault of the client. The line is the threshold of "
              "HighErrorRatio.", [(error_ratio(), "failing")], "percentunit", line=thresholds((0.05, "red"))),
        row("How long it takes"),
        graph("First token", "From arrival to the first token, waiting included. The line is the objective.",
              [(quantile(q, "gateway_time_to_first_token_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)],
              SECONDS, line=thresholds((2.5, "red"))),
        graph("Waiting for a slot", "The part of that time spent in the queue.",
              [(quantile(q, "gateway_queue_wait_seconds"), f"p{int(q * 100)}") for q in (0.5, 0.95, 0.99)], SECONDS),
        graph("The gateway's own work, p99", "auth: checking the key; route: reading, limits, edits; forward: all of the answer; "
              "record: until the usage row is safe. More than a few milliseconds means that the machine is short of CPU.",
              [(quantile(0.99, "gateway_overhead_seconds", by="stage"), "{{stage}}")], SECONDS),
        row("What went wrong"),
        graph("No answer, by reason", "full: the queue; user_full: the user's share of it; deadline: waited too long; no_node: "
              "none has the model; exhausted: every attempt failed; stopping: the gateway is shutting down.",
              [(f"sum by (reason) ({rate('gateway_queue_rejected_total')})", "{{reason}}")], "reqps", stack=True),
        graph("Tried again", "By the gateway on another node, with the reason; and by clients' SDKs.",
              [(f"sum by (reason) ({rate('gateway_retries_total')})", "{{reason}}"),
               (f"sum({rate('gateway_client_retries_total')})", "by clients")], "reqps", stack=True),
        graph("Refused by users' limits", "Requests that a limit of their user or key refused, by limit.",
              [(f"sum by (limit) ({rate('gateway_rate_limited_total')})", "{{limit}}")], "reqps", stack=True),
        row("The gateway itself"),
        stat("Usage storage", "Whether usage rows can be written to the local file. While they cannot, every request is "
             "refused and readiness says 503.", "min(" + series("gateway_usage_storage_ready") + ")", "none",
             rising((1, "green")), 3, values(_0=("Away", "red"), _1=("Ready", "green")), spark=False, height=8),
        stat("Postgres", "Whether it answered last time. While it is away, requests are served; reports and changes to users "
             "are not.", "min(" + series("gateway_database_up") + ")", "none",
             rising((1, "green")), 2, values(_0=("Away", "orange"), _1=("Up", "green")), spark=False, height=8),
        stat("Gateways on these nodes", "How many use the slots. Orange: one does not know yet which of them are its own, "
             "and may use fewer than it could.",
             "max(" + series("gateway_sharing_gateways") + ") * min(" + series("gateway_sharing_settled") + ")", "none",
             rising((0, "orange"), (1, "green")), 2, values(_0=("Dividing", "orange")), spark=False, height=8),
        graph("Who schedules", "By gateway: its role, and the epoch of the leader. The epoch grows when another gateway takes over. "
              "Seeking for more than a moment: no gateway can be reached that leads.",
              [("sum by (role) (" + series("gateway_scheduler_role") + ")", "{{role}}"),
               ("max(" + series("gateway_scheduler_epoch") + ")", "epoch"),
               ("sum(" + series("gateway_scheduler_handovers") + ")", "handovers seen")], "none"),
        graph("Scheduler's lock, p99", "How long it is held at a time, to decide and to read for a view. Every request waits for "
              "it a few times; 1 ms is much.",
              [(quantile(0.99, "gateway_scheduler_lock_seconds", by="use"), "{{use}}")], SECONDS),
        graph("Link delay", "Round trip on each gateway's slowest link with another gateway. Clients of a gateway that does not "
              "lead wait for two of them.",
              [("max by (instance) (" + series("gateway_link_delay_seconds") + ")", "{{instance}}")], "s"),
        stat("Configuration", "Whether gateway.yaml was valid when last read. If not, the previous one stays in force; "
             "the log and POST /admin/reload name every mistake.",
             "min(" + series("gateway_config_last_reload_successful") + ")", "none",
             rising((1, "green")), 2, values(_0=("Mistake", "red"), _1=("Good", "green")), spark=False, height=8),
        stat("Certificate", "Until the certificate that clients are served expires. To renew it, put new files in place of the "
             "old ones and reload.", "(min(" + series("gateway_tls_certificate_expiry_seconds") + ") - time()) or vector(0)", "s",
             rising((7 * 86400, "orange"), (14 * 86400, "green")), 2, values(_0=("No TLS", "text")), spark=False, height=8),
        graph("Usage rows on their way", "In memory: running requests, and rows not yet in the local file; at 16384 new requests get 503. "
              "In the local file: not yet in Postgres; this grows while Postgres is away and does no harm. "
              "Parked: refused by Postgres. Wrong sums: daily sums that differ from their rows.",
              [("sum by (instance) (" + series("gateway_usage_rows_waiting") + ")", "in memory, {{instance}}"),
               ("sum by (instance) (" + series("gateway_usage_outbox_rows") + ")", "in the local file, {{instance}}"),
               ("sum by (instance) (" + series("gateway_usage_parked_rows") + ")", "parked, {{instance}}"),
               ("sum by (instance) (" + series("gateway_usage_rollup_mismatches") + ")", "wrong sums, {{instance}}")],
              "none", (4, 8)),
        graph("Memory", "Resident memory of the gateway.",
              [("sum by (instance) (" + series("process_resident_memory_bytes") + ")", "{{instance}}")], "bytes", (4, 8)),
        graph("Processor", "1 is one core. The gateway alone; models run on the nodes.",
              [(f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}")], "none", (4, 8)),
        table("Versions", "Which version runs where.",
              [("max by (instance, version) (" + series("gateway_build_info") + ")", "")], "none", (3, 8),
              {"instance": "Instance", "version": "Version"}, hide=["Value"]),
    ])


def node():
    return board("gw-node", "Gateway / Node", "Which machine is slow, idle or ill?", [
        timeline("State", "Up; on trial, or with one recent failure; down.", [(node_state(NODE), "{{node}}")],
                 NODE_STATE, (16, 7)),
        stat("Up", "Selected nodes that can be given requests.",
             "sum(max by (node) (" + series("gateway_node_up", NODE) + "))", "none", rising((1, "green")), 4, spark=False, height=7),
        stat("Imbalance", "Standard deviation of the nodes' request rates divided by their mean; 0 is even. Nodes of different "
             "speed should be uneven. A node that is down counts as idle.",
             f"stddev(sum by (node) ({rate('gateway_node_requests_total', NODE)})) / avg(sum by (node) ({rate('gateway_node_requests_total', NODE)}))",
             "percentunit", thresholds((1, "yellow")), 4, height=7),
        row("Load"),
        graph("Running", "Requests on each node, all models together.",
              [("sum by (node) (" + series("gateway_node_slots_in_use", NODE) + ")", "{{node}}")], "none", stack=True),
        graph("Slots in use", "Running requests divided by the slots of one model; above 100 % several models run at once.",
              [("sum by (node) (" + series("gateway_node_slots_in_use", NODE) + ") / max by (node) ("
                + series("gateway_node_slots", NODE) + ")", "{{node}}")], "percentunit", line=thresholds((1, "orange"))),
        graph("Attempts", "Attempts that ended, successfully or not, per second.",
              [(f"sum by (node) ({rate('gateway_node_requests_total', NODE)})", "{{node}}")], "reqps", stack=True),
        row("Quality"),
        graph("Attempts that failed", "By node and reason. cancelled (the client left) and client_error are left out: not the node's fault.",
              [("sum by (node, outcome) (" + rate("gateway_node_requests_total", NODE, 'outcome!~"ok|client_error|cancelled"') + ")",
                "{{node}} {{outcome}}")], "reqps", stack=True),
        graph("Time for an attempt, p50", "From the slot to the end of the answer.",
              [(quantile(0.5, "gateway_node_request_duration_seconds", NODE, by="node"), "{{node}}")], SECONDS),
        graph("Time for an attempt, p95", "From the slot to the end of the answer.",
              [(quantile(0.95, "gateway_node_request_duration_seconds", NODE, by="node"), "{{node}}")], SECONDS),
        row("Models"),
        table("Models in memory", "Which node has which model in memory. Models that are only on disk are not shown.",
              [("max by (node, model) (" + series("gateway_node_model_loaded", NODE) + ") == 1", "")], "none", (8, 8),
              {"node": "Node", "model": "Model"}, hide=["Value"]),
        graph("Video memory", "Used by loaded models, as the node reports it.",
              [("max by (node) (" + series("gateway_node_vram_bytes", NODE) + ")", "{{node}}")], "decbytes", stack=True),
        graph("Time to load a model, p95", "Loads that the gateway ordered.",
              [(quantile(0.95, "gateway_model_load_seconds", NODE, by="node"), "{{node}}")], SECONDS),
        graph("Why this node", "warm: the model was in memory; cold: it had to be loaded; fallback: another attempt had failed. "
              "Much cold means that models evict each other.",
              [(f"sum by (reason) ({rate('gateway_routing_decisions_total', NODE)})", "{{reason}}")], "reqps",
              stack="percent", colours=["warm", "cold", "fallback"], minimum=None),
        graph("Prompt tokens found in the cache", "Share of all prompt tokens sent that were expected to be in the node's prompt "
              "cache; and, of prompts that were timed, the share that must have been there.",
              [(share("sum by (node) (" + rate("gateway_node_prompt_tokens_total", NODE, 'part="expected_cached"') + ")",
                      "sum by (node) (" + rate("gateway_node_prompt_tokens_total", NODE, 'part="sent"') + ")"), "{{node}} expected"),
               (share("sum by (node) (" + rate("gateway_node_prompt_tokens_total", NODE, 'part="measured_cached"') + ")",
                      "sum by (node) (" + rate("gateway_node_prompt_tokens_total", NODE, 'part="timed"') + ")"), "{{node}} measured")],
              "percentunit"),
        row("Health"),
        graph("Taken out and brought back", "Circuit breaker changes in the interval: open (down), half_open (on trial), closed (back).",
              [("sum by (node, to) (" + increase("gateway_circuit_transitions_total", NODE, window="$__rate_interval") + ")",
                "{{node}} {{to}}")], "none", bars=True, stack=True),
        graph("Canaries", "The gateway's own requests to a node that had produced nothing, in the interval, by what they showed.",
              [("(sum by (node, outcome) (" + increase("gateway_node_canaries_total", NODE, window="$__rate_interval")
                + ")) or vector(0)", "{{node}} {{outcome}}")], "none", bars=True, stack=True),
        graph("Answer to a probe, p95", "Two timeouts in a row (health.probe_timeout_ms) take the node down.",
              [(quantile(0.95, "gateway_node_probe_duration_seconds", NODE, by="node"), "{{node}}")], SECONDS),
        graph("Since the last probe", "More than a few seconds means that the gateway hangs.",
              [("time() - max by (node) (" + series("gateway_node_last_probe_timestamp_seconds", NODE) + ")", "{{node}}")],
              SECONDS, line=thresholds((10, "red"))),
        graph("Not believed", "What the node said and cannot be, in the interval: entries of its lists of models, and token counts.",
              [("sum by (node) (" + increase("gateway_node_listing_entries_skipped_total", NODE, window="$__rate_interval") + ")",
                "{{node}} entries"),
               ("(sum by (node) (" + increase("gateway_usage_claims_corrected_total", NODE, window="$__rate_interval")
                + ")) or vector(0)", "{{node}} token counts")], "none", bars=True, stack=True),
    ], [NODE_VARIABLE])


def model():
    by_model = lambda q, metric: quantile(q, metric, MODEL, by="model")
    return board("gw-model", "Gateway / Model", "Which model is used, how fast is it, and does it have enough nodes?", [
        stat("Requests", "Per second.", f"sum({rate('gateway_requests_total', WORK, MODEL)})", "reqps", width=4),
        stat("Output", "Answer tokens per second.", "sum(" + rate("gateway_tokens_total", MODEL, 'type="output"') + ")",
             "count:tok/s", width=4),
        stat("First token, p95", "Waiting included. Yellow from 2.5 s, red from 10 s.",
             quantile(0.95, "gateway_time_to_first_token_seconds", MODEL), SECONDS, thresholds((2.5, "yellow"), (10, "red")), 4),
        stat("Per token, p95", "Time for each further token of a stream.",
             quantile(0.95, "gateway_time_per_output_token_seconds", MODEL), SECONDS, thresholds((0.1, "yellow"), (0.3, "red")), 4),
        stat("Waiting", "Requests waiting for a slot.", "sum(" + series("gateway_queue_depth", MODEL) + ")", "none",
             thresholds((1, "yellow"), (20, "red")), 4),
        stat("Cold starts", "Share of requests, of all models, whose model had to be loaded first. Yellow from 5 %.",
             share("sum(" + rate("gateway_routing_decisions_total", 'reason="cold"') + ")",
                   f"sum({rate('gateway_routing_decisions_total')})"),
             "percentunit", thresholds((0.05, "yellow"), (0.25, "red")), 4),
        row("Use"),
        graph("Requests", "Per second, by model.", [(f"sum by (model) ({rate('gateway_requests_total', WORK, MODEL)})", "{{model}}")],
              "reqps", stack=True),
        graph("Output", "Answer tokens per second, by model.",
              [("sum by (model) (" + rate("gateway_tokens_total", MODEL, 'type="output"') + ")", "{{model}}")], "count:tok/s", stack=True),
        graph("Failures", "Failures that are not the client's fault, by model.",
              [(f"sum by (model) ({rate('gateway_requests_total', WORK, FAILED, MODEL)})", "{{model}}")], "reqps", stack=True),
        row("Speed"),
        heatmap("First token", "Distribution of the time to the first token, waiting included.",
                "gateway_time_to_first_token_seconds"),
        heatmap("Per token", "Distribution of the time per further token.", "gateway_time_per_output_token_seconds"),
        graph("First token, p95", "By model, waiting included.",
              [(by_model(0.95, "gateway_time_to_first_token_seconds"), "{{model}}")], SECONDS, line=thresholds((2.5, "red"))),
        graph("Per token, p95", "By model.", [(by_model(0.95, "gateway_time_per_output_token_seconds"), "{{model}}")], SECONDS),
        graph("Whole answer, p95", "By model, from arrival to end.",
              [(quantile(0.95, "gateway_request_duration_seconds", WORK, MODEL, by="model"), "{{model}}")], SECONDS),
        row("Room"),
        graph("Waiting for a slot, p95", "By model. If it grows while nodes are idle, too few nodes have the model.",
              [(by_model(0.95, "gateway_queue_wait_seconds"), "{{model}}")], SECONDS),
        graph("Waiting", "Requests in the queue by model.",
              [("sum by (model) (" + series("gateway_queue_depth", MODEL) + ")", "{{model}}")], "none", stack=True),
        graph("Nodes that have it in memory", "By model.",
              [("sum by (model) (max by (node, model) (" + series("gateway_node_model_loaded", MODEL) + "))", "{{model}}")], "none"),
    ], [MODEL_VARIABLE])


def usage():
    user = 'user=~"$user"'
    tokens, requests = "gateway_user_tokens_total", "gateway_user_requests_total"
    return board("gw-usage", "Gateway / Usage", "Who uses how much? For exact sums use GET /admin/usage; this is the overview.", [
        text("", "Panels by user need `metrics.user_label: all` in `gateway.yaml`; without it they are empty. Beyond "
             "`metrics.user_cap` users (100) all others together are `_other`. For bills use "
             "`GET /admin/usage`.", (24, 2)),
        stat("Tokens", "Prompt and answer tokens in the selected time.", f"sum({increase('gateway_tokens_total')})", "short", width=6, spark=False),
        stat("Requests", "In the selected time.", f"sum({increase('gateway_requests_total', WORK)})", "short", width=6, spark=False),
        stat("Refused by limits", "Requests in the selected time that a limit refused.",
             f"sum({increase('gateway_rate_limited_total')})", "short", thresholds((1, "yellow")), 6, spark=False),
        stat("Active users", "Users with a request in the selected time; all beyond the cap count as one.",
             f"count(sum by (user) ({increase(requests, user)}) > 0) or vector(0)", "none", width=6, spark=False),
        row("Users"),
        bars("Most tokens", "The ten users with the most tokens in the selected time.",
             [(f"topk(10, sum by (user) ({increase(tokens, user)}))", "{{user}}")], "short"),
        graph("Tokens by user", "The top ten, per second.",
              [(f"topk(10, sum by (user) ({rate(tokens, user)}))", "{{user}}")], "count:tok/s", stack=True),
        graph("Requests by user", "The top ten, per second.",
              [(f"topk(10, sum by (user) ({rate(requests, user)}))", "{{user}}")], "reqps", stack=True),
        table("All users", "In the selected time: prompt and answer tokens, requests, and those refused (4xx).",
              [("sum by (user) (" + increase(tokens, user, 'type="input"') + ")", ""),
               ("sum by (user) (" + increase(tokens, user, 'type="output"') + ")", ""),
               (f"sum by (user) ({increase(requests, user)})", ""),
               ("sum by (user) (" + increase(requests, user, 'code_class="4xx"') + ")", "")], "short", (12, 9),
              {"user": "User", "Value #A": "Input", "Value #B": "Output", "Value #C": "Requests", "Value #D": "Refused"}),
        graph("Answers by class", "For the selected users: 2xx, 4xx (their fault, or a limit), 5xx (our fault).",
              [(f"sum by (code_class) ({rate(requests, user)})", "{{code_class}}")], "reqps", (12, 9), stack=True,
              colours=["2xx", "4xx", "5xx"]),
        row("Limits and models"),
        graph("Refused by limits", "Requests that a limit of their user or key refused, by limit.",
              [(f"sum by (limit) ({rate('gateway_rate_limited_total')})", "{{limit}}")], "reqps", stack=True),
        bars("Tokens by model", "In the selected time, all users.",
             [(f"sum by (model) ({increase('gateway_tokens_total')})", "{{model}}")], "short"),
        graph("Tokens", "All users, counted when a request ends.",
              [(f"sum by (type) ({rate('gateway_tokens_total')})", "{{type}}")], "count:tok/s", stack=True,
              colours=["input", "output"]),
    ], [USER_VARIABLE], time="now-24h")


def slo():
    good = thresholds((0.995, "green"))
    good["steps"][0]["color"] = "red"
    burn = thresholds((6, "orange"), (14.4, "red"))
    windows = ("5m", "30m", "1h", "6h")
    failed = increase("gateway_requests_total", WORK, FAILED, window="30d")
    return board("gw-slo", "Gateway / Objectives", "Do we keep what we promise, and how fast is the error budget used?", [
        text("", "**Availability**: 99.5 % of requests do not fail through our fault. **First token**: 95 % within 2.5 s. "
             "At a burn rate of 1 the error budget lasts exactly 30 days; at 14.4 two days (page), at 6 five (ticket).", (24, 2)),
        stat("Availability, 30 days", "Share of requests that did not fail through our fault. The objective is 99.5 %.",
             "1 - " + share(f"sum({failed})", f"sum({increase('gateway_requests_total', WORK, window='30d')})"),
             "percentunit", good, 6, decimals=3, spark=False),
        stat("Error budget left", "Of the failures that 99.5 % over 30 days allows. Below 0 the objective is missed.",
             "1 - (" + share(f"sum({failed})", f"sum({increase('gateway_requests_total', WORK, window='30d')})") + ") / 0.005",
             "percentunit", rising((0, "yellow"), (0.5, "green")), 6, spark=False),
        stat("First token within 2.5 s, 30 days", "Share of requests. The objective is 95 %.",
             "sum(" + increase("gateway_time_to_first_token_seconds_bucket", 'le="2.5"', window="30d") + ") / sum("
             + increase("gateway_time_to_first_token_seconds_count", window="30d") + ")", "percentunit",
             rising((0.95, "green")), 6, spark=False),
        stat("Firing", "Alerts of this gateway that are firing.",
             'count(ALERTS{alertstate="firing",job=~"$job"}) or vector(0)', "none", thresholds((1, "red")), 6, spark=False),
        row("Burn rates"),
        graph("Availability", "How many times faster than allowed failures occur. Fast: 5 m and 1 h above 14.4; slow: 30 m and "
              "6 h above 6.", [(f"({error_ratio(window=window)}) / 0.005", window) for window in windows], "none", (12, 9), line=burn),
        graph("First token", "The same for requests whose first token took longer than 2.5 s.",
              [(f"({slow_ratio(window)}) / 0.05", window) for window in windows], "none", (12, 9), line=burn),
        row("Now"),
        graph("Availability", "Share of requests that did not fail through our fault.",
              [(f"1 - {error_ratio()}", "availability")], "percentunit", minimum=None, maximum=1, line=good),
        graph("First token within 2.5 s", "Share of requests.",
              [("sum(" + rate("gateway_time_to_first_token_seconds_bucket", 'le="2.5"') + f") / sum({rate('gateway_time_to_first_token_seconds_count')})",
                "within 2.5 s")], "percentunit", maximum=1, line=rising((0.95, "green"))),
        alerts("Alerts", "Alerts that are firing or pending.", (8, 8)),
    ], time="now-24h")


def render(made):
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def boards():
    """The text of every board by its file name."""
    return {f"{made['uid']}.json": render(made) for made in (fleet(), node(), model(), usage(), slo())}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in boards().items():
        (FOLDER / name).write_text(content)
