"""Which programs and files do these tests need, and where are they?"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules" / "gateway.yml"
RULE_TESTS = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"))
# What this gateway does not export, and where it is tested instead.
ABSENT = {"gateway_tls_certificate_expiry_seconds": "this gateway speaks no TLS: tests/api/tls.rs"}
METRIC = re.compile(r"\b(?:gateway|process)_[a-z_]+")
SELECTOR = re.compile(r"((?:gateway|process)_[a-z_]+)(\{[^}]*\})?")
# No targets by their nature.
SILENT_KINDS = {"row", "text", "alertlist"}


def target_folder() -> pathlib.Path:
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


@functools.cache
def prometheus(program: str) -> str:
    """`prometheus` or `promtool`: as installed, else from Debian's package, which is unpacked and not installed."""
    if found := shutil.which(program):
        return found
    folder = target_folder() / "prometheus"
    path = folder / "usr" / "bin" / program
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        download = ["apt-get", "download", "prometheus"]
        if subprocess.run(download, cwd=folder, capture_output=True, timeout=300).returncode:
            root = [] if os.geteuid() == 0 else ["sudo"]
            subprocess.run([*root, "apt-get", "update"], check=True, timeout=300)
            subprocess.run(download, cwd=folder, check=True, timeout=300)
        for package in folder.glob("prometheus_*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True, timeout=120)
            package.unlink()
    return str(path)


def promtool(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run([prometheus("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)


def board(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def boards() -> list[dict]:
    return [board(path) for path in DASHBOARDS]


def panels(of: dict) -> list[dict]:
    return [panel for panel in of["panels"] if panel["type"] not in SILENT_KINDS]


def queries() -> list[tuple[str, dict, dict]]:
    """Every query of every panel: where it is, its panel, its target."""
    return [(f"{of['uid']} / {panel['title']} / {target['refId']}", panel, target)
            for of in boards() for panel in panels(of) for target in panel["targets"]]


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def filled(expr: str, interval: str = "5m", span: str = "1h") -> str:
    """A query as Grafana sends it, with everything chosen."""
    expr = expr.replace("$__rate_interval", interval).replace("$__range", span)
    return re.sub(r'=~"\$[a-z]+"', '=~".+"', expr)


def family(metric: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", metric)


def with_secrets(config: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a gateway's configuration whose secret files are there: outside a container they are not."""
    text = config.read_text()
    for number, mounted in enumerate(re.findall(r"_file: (\S+)", text)):
        secret = folder / f"secret-{number}"
        secret.write_text("a-secret-of-at-least-thirty-two-letters\n")
        text = text.replace(mounted, str(secret))
    copy = folder / config.name
    copy.write_text(text)
    return copy
