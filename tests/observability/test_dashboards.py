"""Do the boards keep to the rules, and do they and the alerts speak only of metrics that are there?

The rules are those of Grafana's dashboard-linter, and a few of ours.
"""

import importlib.util
import re

import pytest
import tools
import yaml

# Exported, and on no board.
# When the configuration was read: a date, of use beside the log alone.
DELIBERATELY_NOT = {"gateway_config_last_reload_timestamp_seconds"}
UNITS = {"none", "short", "s", "reqps", "percentunit", "bytes", "decbytes", "count:tok/s"}
# Objectives are kept over fixed windows.
FIXED_WINDOWS = {"gw-slo": {"5m", "30m", "1h", "6h", "30d"}}
BOARDS = pytest.mark.parametrize("board", tools.boards(), ids=lambda board: board["uid"])
QUERIES = pytest.mark.parametrize("where,panel,target", tools.queries(), ids=[each[0] for each in tools.queries()])


def test_the_boards_are_those_that_people_expect():
    assert [board["uid"] for board in tools.boards()] == ["gw-fleet", "gw-model", "gw-node", "gw-slo", "gw-usage"]
    assert [path.stem for path in tools.DASHBOARDS] == [board["uid"] for board in tools.boards()]


def test_the_files_are_as_they_are_generated():
    path = tools.ROOT / "grafana" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.boards() == {path.name: path.read_text() for path in tools.DASHBOARDS}, "run grafana/generate.py"


@BOARDS
def test_a_board_can_be_provisioned(board):
    assert board["id"] is None and board["editable"] is False and board["schemaVersion"] == 41
    assert board["tags"] == ["gateway"] and board["graphTooltip"] == 1 and board["refresh"] == "30s"
    assert board["title"] and board["description"]
    (link,) = board["links"]
    assert link["type"] == "dashboards" and link["tags"] == ["gateway"] and link["asDropdown"]


@BOARDS
def test_variables(board):
    variables = {each["name"]: each for each in board["templating"]["list"]}
    names = list(variables)
    assert names[:3] == ["datasource", "job", "instance"]
    source = variables.pop("datasource")
    assert source["type"] == "datasource" and source["query"] == "prometheus" and source["label"] == "Data Source"
    for name, each in variables.items():
        assert each["type"] == "query" and each["datasource"]["uid"] == "${datasource}", name
        assert each["multi"] and each["includeAll"] and each["allValue"] == ".+" and each["label"], name
        assert each["refresh"] == 2, f"{name} is looked up again when the time changes"
        assert re.fullmatch(r"label_values\(gateway_[a-z_]+(\{.*\})?, " + name + r"\)", each["query"]["query"]), name
        if name not in ("job", "instance"):
            assert 'job=~"$job",instance=~"$instance"' in each["query"]["query"], name
    said = " ".join(target["expr"] for panel in tools.panels(board) for target in panel["targets"])
    assert set(re.findall(r'"\$([a-z]+)"', said)) == set(variables), "each variable is used, and no other"


@BOARDS
def test_panels(board):
    seen, ids = set(), [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & seen, f"{panel['title']} lies upon another"
        seen |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"] and (panel["title"] or panel["type"] == "text"), panel["title"]
        if panel["type"] == "text":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        if panel["type"] == "alertlist":
            continue
        assert panel["targets"], panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, f"{panel['title']}: {defaults['unit']}"
        assert defaults["mappings"], f"{panel['title']} says nothing where there is nothing"
        limits = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert limits[0] is None and limits[1:] == sorted(limits[1:]), panel["title"]


@QUERIES
def test_queries(where, panel, target):
    expr = target["expr"]
    assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert target["instant"] != target["range"]
    if panel["type"] in ("timeseries", "state-timeline", "heatmap", "bargauge"):
        assert target["legendFormat"], "a series without a name"
    for metric, matchers in tools.SELECTOR.findall(expr):
        assert 'job=~"$job",instance=~"$instance"' in matchers, metric
    windows = set(re.findall(r"\[([^\]]+)\]", expr))
    allowed = {"$__rate_interval", "$__range"} | FIXED_WINDOWS.get(where.split(" ")[0], set())
    assert windows <= allowed, windows - allowed
    for metric in re.findall(r"\b[a-z_]+_(?:total|bucket|sum|count)\{[^}]*\}", expr):
        before, _, after = expr.partition(metric)
        assert re.search(r"(rate|increase)\($", before) and after.startswith("["), f"{metric} only grows"
    if "histogram_quantile" in expr:
        assert re.search(r"sum by \(le\b", expr)


def test_every_query_and_alert_parses(tmp_path):
    records = [{"record": f"q{index}", "expr": tools.filled(target["expr"])} for index, (_, _, target) in enumerate(tools.queries())]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": records}]}))
    for checked in (tools.promtool("check", "rules", rules), tools.promtool("check", "rules", tools.RULES)):
        assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(records) > 60


def test_alerts_fire_when_they_should():
    for path in tools.RULE_TESTS:
        checked = tools.promtool("test", "rules", path.name, cwd=path.parent)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = {test["name"] for path in tools.RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]}
    assert tested == {rule["alert"] for rule in tools.rules()}, "each alert has its example"


@pytest.mark.parametrize("rule", tools.rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


def test_metrics_are_in_good_form(exported):
    checked = tools.promtool("check", "metrics", input=exported)
    assert checked.returncode == 0 and not checked.stderr, checked.stdout + checked.stderr


def test_boards_and_alerts_name_only_metrics_that_are_there(exported):
    there = set(re.findall(r"^# TYPE (\S+)", exported, re.M))
    assert not there & set(tools.ABSENT)
    exprs = {where: target["expr"] for where, _, target in tools.queries()}
    exprs |= {f"alert {rule['alert']}": rule["expr"] for rule in tools.rules()}
    exprs |= {f"{board['uid']} ${each['name']}": each["query"]["query"] for board in tools.boards()
              for each in board["templating"]["list"] if each["type"] == "query"}
    for where, expr in exprs.items():
        for metric in set(tools.METRIC.findall(expr)) - set(tools.ABSENT):
            assert tools.family(metric) in there or metric in there, f"{where}: nobody exports {metric}"


def test_labels_that_boards_and_alerts_name_are_there(exported):
    for where, expr in [(where, target["expr"]) for where, _, target in tools.queries()] + [
            (rule["alert"], rule["expr"]) for rule in tools.rules()]:
        for metric, matchers in tools.SELECTOR.findall(expr):
            for label, operator, value in re.findall(r'(\w+)(=~|!~|=)"([^"]*)"', matchers):
                if label in ("job", "instance"):
                    continue
                values = set(re.findall(rf'^{metric}\{{(?:.*,)?{label}="([^"]*)"', exported, re.M))
                assert values, f"{where}: {metric} has no label {label}"
                if operator == "=":
                    assert value in values, f"{where}: {metric} never has {label}={value}"
                elif "$" not in value and operator == "=~":
                    assert any(re.fullmatch(value, each) for each in values), f"{where}: {metric} {label} {value}"


def test_every_metric_is_on_a_board(exported):
    ours = set(re.findall(r"^# TYPE (gateway_\S+)", exported, re.M))
    shown = {tools.family(metric) for _, _, target in tools.queries() for metric in tools.METRIC.findall(target["expr"])}
    shown |= {metric for _, _, target in tools.queries() for metric in tools.METRIC.findall(target["expr"])}
    assert ours - shown == DELIBERATELY_NOT


def test_provisioning():
    folder = tools.ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["uid"] == "prometheus" and source["type"] == "prometheus" and source["isDefault"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "gateway.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"] == "/var/lib/grafana/dashboards"
    config = tools.ROOT / "deploy" / "prometheus" / "prometheus.yml"
    scrapes = yaml.safe_load(config.read_text())
    assert scrapes["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]
    assert [scrape["job_name"] for scrape in scrapes["scrape_configs"]] == ["gateway"]
    checked = tools.promtool("check", "config", "--syntax-only", config)
    assert checked.returncode == 0, checked.stderr
