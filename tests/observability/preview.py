"""Draws the panels of each board from the answers of a real Prometheus, into grafana/preview.

    pip install matplotlib && python tests/observability/preview.py

Not Grafana itself: the same queries, titles, units and colours, in the same places.
"""

import datetime
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import stand as stands  # noqa: E402
import tools  # noqa: E402
from matplotlib.dates import DateFormatter  # noqa: E402

FOLDER = tools.ROOT / "grafana" / "preview"
BACK, PANEL, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#6e7079"
COLOURS = {"green": "#73bf69", "dark-red": "#ad0317", "red": "#f2495c", "orange": "#ff9830", "yellow": "#fade2a",
           "blue": "#5794f2", "purple": "#b877d9", "text": "#9fa7b3"}
PALETTE = ["#73bf69", "#fade2a", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff", "#ffb357", "#ca95e5"]
INTERVAL, SPAN = "5s", "2m"


def shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return "No traffic"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value * 1e6:.3g} µs" if 0 < value < 1e-3 else f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit in ("bytes", "decbytes"):
        base, names = (1024, ["B", "KiB", "MiB", "GiB"]) if unit == "bytes" else (1000, ["B", "kB", "MB", "GB"])
        power = min(3, int(math.log(value, base))) if value >= 1 else 0
        return f"{value / base**power:.3g} {names[power]}"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return number + {"reqps": " req/s", "count:tok/s": " tok/s"}.get(unit, "")


def named(legend: str, labels: dict) -> str:
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend


def answers(stand, panel: dict) -> list[tuple[str, dict, list[tuple[float, float]]]]:
    found = []
    for target in panel["targets"]:
        expr = tools.filled(target["expr"], INTERVAL, SPAN)
        made = [(each["metric"], [each["value"]]) for each in stand.instant(expr)] if target["instant"] else [
            (each["metric"], each["values"]) for each in stand.over_time(expr)]
        found += [(named(target["legendFormat"], labels), labels, [(float(at), float(value)) for at, value in values])
                  for labels, values in made]
    return found


def step_colour(panel: dict, value: float) -> str:
    colour = "text"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return COLOURS[colour]


def words(panel: dict, value: float) -> tuple[str, str] | None:
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        if mapping["type"] == "value" and (found := mapping["options"].get(f"{value:g}")):
            return found["text"], COLOURS[found["color"]]
    return None


def fixed(panel: dict, name: str, index: int) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            return COLOURS[override["properties"][0]["value"]["fixedColor"]]
    return PALETTE[index % len(PALETTE)]


def times(points) -> list:
    return [datetime.datetime.fromtimestamp(at, datetime.UTC) for at, _ in points]


def draw_stat(axes, panel, found):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    (_, _, points), *_ = found
    numbers = [value for _, value in points if not math.isnan(value)]
    last = numbers[-1] if numbers else math.nan
    said = words(panel, last)
    text, colour = said or (shown(last, unit), step_colour(panel, last) if numbers else COLOURS["text"])
    if panel["options"]["graphMode"] == "area" and len(points) > 1:
        under = axes.inset_axes([0, 0, 1, 0.35])
        under.fill_between(range(len(points)), [0 if math.isnan(value) else value for _, value in points], color=colour, alpha=0.25)
        under.axis("off")
    axes.text(0.5, 0.55, text, color=colour, ha="center", va="center", fontsize=17, fontweight="bold", transform=axes.transAxes)
    axes.axis("off")


def draw_graph(axes, panel, found):
    unit, custom = panel["fieldConfig"]["defaults"]["unit"], panel["fieldConfig"]["defaults"]["custom"]
    found = [each for each in found if any(value for _, value in each[2] if not math.isnan(value))] or found[:3]
    stacking = custom["stacking"]["mode"]
    if stacking != "none":
        instants = sorted({at for _, _, points in found for at, _ in points})
        rows = [[dict(points).get(at, 0) for at in instants] for _, _, points in found]
        rows = [[0 if math.isnan(value) else value for value in row] for row in rows]
        if stacking == "percent":
            totals = [sum(column) or 1 for column in zip(*rows)]
            rows, unit = [[value / total for value, total in zip(row, totals)] for row in rows], "percentunit"
        axes.stackplot([datetime.datetime.fromtimestamp(at, datetime.UTC) for at in instants], rows, alpha=0.7,
                       colors=[fixed(panel, name, index) for index, (name, _, _) in enumerate(found)],
                       labels=[name for name, _, _ in found])
    else:
        for index, (name, _, points) in enumerate(found):
            axes.plot(times(points), [value for _, value in points], color=fixed(panel, name, index), lw=1.2, label=name)
    if custom["thresholdsStyle"]["mode"] == "line":
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
            if step["value"] <= axes.get_ylim()[1] * 3:
                axes.axhline(step["value"], color=COLOURS[step["color"]], lw=0.8, ls="--")
    if panel["fieldConfig"]["defaults"].get("min") == 0:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(plt.MaxNLocator(4))
    axes.legend(loc="upper left", fontsize=5.5, labelcolor=INK, facecolor=PANEL, edgecolor="none", framealpha=0.6, ncols=2)


def draw_timeline(axes, panel, found):
    for row, (name, _, points) in enumerate(reversed(found)):
        for at, value in points:
            begin = datetime.datetime.fromtimestamp(at, datetime.UTC)
            axes.barh(row, datetime.timedelta(seconds=1), left=begin, height=0.8, color=words(panel, value)[1])
    axes.set_yticks(range(len(found)), [name for name, _, _ in reversed(found)])
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(plt.MaxNLocator(4))


def draw_bars(axes, panel, found):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    found = sorted((points[-1][1], name) for name, _, points in found)
    axes.barh([name for _, name in found], [value for value, _ in found], color=COLOURS["blue"])
    for row, (value, _) in enumerate(found):
        axes.text(value, row, " " + shown(value, unit), color=INK, va="center", fontsize=7)
    axes.margins(x=0.25)
    axes.xaxis.set_visible(False)


def draw_heatmap(axes, panel, found):
    found = sorted(found, key=lambda each: float(each[1]["le"]))
    instants = [at for at, _ in found[0][2]]
    counts = [[dict(points).get(at, 0) for at in instants] for _, _, points in found]
    cells = [[(0 if math.isnan(value) else value) - (0 if math.isnan(below) else below) for value, below in zip(row, lower)]
             for row, lower in zip(counts, [[0] * len(instants), *counts])]
    top = max(index for index, row in enumerate(cells) if max(row) > 1e-9) + 2
    axes.imshow([[value if value > 1e-9 else math.nan for value in row] for row in cells[:top]], aspect="auto",
                origin="lower", cmap="turbo", interpolation="nearest")
    axes.set_yticks(range(len(cells[:top])), [shown(float(labels["le"]), "s") for _, labels, _ in found[:top]])
    axes.xaxis.set_visible(False)


def draw_table(axes, panel, found):
    organise = panel["transformations"][-1]["options"]
    rename, hidden = organise["renameByName"], organise["excludeByName"]
    labels = [label for label in rename if not label.startswith("Value")]
    values = [label for label in rename if label.startswith("Value")]
    rows: dict[tuple, list[str]] = {}
    for _, metric, points in found:
        rows.setdefault(tuple(metric.get(label, "") for label in labels), []).append(
            shown(points[-1][1], panel["fieldConfig"]["defaults"]["unit"]))
    cells = [[*key, *([] if "Value" in hidden else numbers)] for key, numbers in sorted(rows.items())]
    grid = axes.table(cellText=cells, colLabels=[rename[label] for label in labels + values], loc="upper center", cellLoc="left")
    for cell in grid.get_celld().values():
        cell.set(facecolor=PANEL, edgecolor="#2c3235")
        cell.get_text().set_color(INK)
    grid.auto_set_font_size(False)
    grid.set_fontsize(6.5)
    axes.axis("off")


def draw_alerts(axes, stand):
    found = sorted({(each["metric"]["alertstate"], each["metric"]["alertname"], each["metric"].get("node", ""))
                    for each in stand.instant("ALERTS")})
    for row, (state, name, node) in enumerate(found[:8]):
        colour = COLOURS["red" if state == "firing" else "yellow"]
        axes.text(0.03, 0.92 - row * 0.12, f"{state:8} {name} {node}", color=colour, fontsize=8, family="monospace",
                  va="top", transform=axes.transAxes)
    axes.axis("off")


DRAW = {"stat": draw_stat, "timeseries": draw_graph, "state-timeline": draw_timeline, "bargauge": draw_bars,
        "heatmap": draw_heatmap, "table": draw_table}


def draw(stand, board: dict) -> pathlib.Path:
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(16, height * 0.34 + 0.5), facecolor=BACK)
    figure.text(0.01, 1 - 0.2 / (height * 0.34 + 0.5), f"{board['title']}: {board['description']}", color=INK, fontsize=12, va="top")
    scale = (height * 0.34) / (height * 0.34 + 0.5)
    for panel in board["panels"]:
        place = panel["gridPos"]
        x, width = place["x"] / 24, place["w"] / 24
        y, tall = (1 - (place["y"] + place["h"]) / height) * scale, place["h"] / height * scale
        if panel["type"] in ("row", "text"):
            content = panel["title"] if panel["type"] == "row" else panel["options"]["content"].replace("**", "").replace("`", "")
            figure.text(x + 0.005, y + tall / 2, content, color=INK if panel["type"] == "row" else FAINT, va="center",
                        fontsize=10 if panel["type"] == "row" else 8)
            continue
        pad, inch = 0.003, 0.34 / (height * 0.34 + 0.5)
        figure.patches.append(plt.Rectangle((x + pad, y + pad / 2), width - 2 * pad, tall - pad, transform=figure.transFigure,
                                            facecolor=PANEL, edgecolor="#2c3235", lw=0.6, zorder=-1))
        figure.text(x + 0.007, y + tall - 0.35 * inch, panel["title"], color=INK, fontsize=8, va="top", fontweight="bold")
        small = panel["type"] in ("stat", "alertlist", "table")
        left = 0.006 if small else 0.033
        axes = figure.add_axes([x + left, y + (0.3 if small else 0.9) * inch, width - left - 0.008, tall - (1.4 if small else 2.1) * inch],
                               facecolor=PANEL)
        axes.tick_params(colors=FAINT, labelsize=6, length=2)
        for spine in axes.spines.values():
            spine.set_color("#2c3235")
        if panel["type"] in ("timeseries",):
            axes.grid(color="#2c3235", lw=0.4)
        if panel["type"] == "alertlist":
            draw_alerts(axes, stand)
        else:
            DRAW[panel["type"]](axes, panel, answers(stand, panel))
    path = FOLDER / f"{board['uid']}.png"
    figure.savefig(path, dpi=90, facecolor=BACK)
    plt.close(figure)
    return path


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with stands.stand(seconds=60) as running:
        for each in tools.boards():
            print(draw(running, each))
