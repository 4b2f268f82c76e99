"""The picture of a comparison: each system's time over that of a reference, machine by machine.

Where two lines cross, two systems swap places.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.figures import figure, panels, save
from sim.ranking.compared import Compared
from sim.ranking.comparison_table import METRICS, ComparisonTable, Setting, Times
from sim.ranking.order_tables import NAMES, gigabytes
from sim.system_colours import colour_of

REFERENCE = "LRU"
HIGHEST = 2.0  # the top of each panel; a text in the panel names the lines that go beyond it


def draw_orders(table: ComparisonTable, compared: Compared, path: Path) -> None:
    """Draw a row of panels per trace, with a panel per metric and cache; machines go from left to right."""
    columns = [(metric, gb) for metric in METRICS if table.places(metric) for gb in compared.cache_gb]
    times = {metric: table.times(metric) for metric in METRICS}
    traces, machines = table.traces, [each.name for each in compared.machines]
    drawn = figure(2.45 * len(columns) + 0.6, 2.1 * len(traces) + 1.6)
    grid = panels(drawn, len(traces), len(columns), sharex=True, sharey="row")
    handles: dict[str, Any] = {}
    for row, trace in enumerate(traces):
        lowest = 1.0
        for panel, (metric, gb) in zip(grid[row], columns, strict=True):
            settings = [Setting(trace, gb, machine, metric) for machine in machines]
            drawn_lines = _draw(panel, compared, [times[metric].get(setting, {}) for setting in settings])
            lowest = min([lowest, *(min(line.get_ydata()) for line in drawn_lines.values())])
            handles |= drawn_lines
        grid[row, 0].set_ylim(lowest / 1.08, HIGHEST)  # panels of a row share it
        grid[row, 0].set_ylabel(trace, fontsize=9)
    for panel, (metric, gb) in zip(grid[0], columns, strict=True):
        panel.set_title(f"{NAMES[metric]}, {gigabytes(gb)} GB", fontsize=9)
    for panel in grid[-1]:
        panel.set_xticks(range(len(machines)), machines, rotation=40, ha="right", fontsize=7)
        panel.set_xlim(-0.3, len(machines) - 0.7)
    names = [each.name for each in compared.of_role("system") if each.name in handles]
    drawn.legend(
        [handles[name] for name in names], names, frameon=False, fontsize=8, ncols=5, loc="outside lower center"
    )
    drawn.suptitle(
        f"Simulated time of each system over that of {REFERENCE} on the same machine (lower is faster); "
        f"where lines cross, systems swap places; lines above {HIGHEST:g} are cut off",
        fontsize=10,
    )
    save(drawn, path, dpi=110)


def _draw(panel: Any, compared: Compared, times: Sequence[Mapping[str, Times]]) -> dict[str, Any]:
    """The lines of one panel, by system; `times` has those of each machine."""
    handles, beyond = {}, []
    for system in reversed(compared.of_role("system")):
        points = [
            (place, there[system.name].mean / there[REFERENCE].mean)
            for place, there in enumerate(times)
            if system.name in there and REFERENCE in there
        ]
        if not points:
            continue
        if (highest := max(ratio for _, ratio in points)) > HIGHEST:
            beyond.append(f"{system.name} up to {highest:.1f}")
        first = system.name == compared.subject
        (handles[system.name],) = panel.plot(
            *zip(*points, strict=True),
            color=colour_of(system.policy),
            linestyle="--" if system.other_form else "-",  # two forms of one system share a colour
            linewidth=2.2 if first else 1.2,
            marker="o",
            markersize=4 if first else 2.5,
        )
    panel.set_yscale("log")
    panel.grid(alpha=0.25, which="both", linewidth=0.5)
    panel.tick_params(labelsize=7)
    panel.tick_params(which="minor", labelsize=6)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[-1] in "257" else "")
    text, height = ("\n".join(beyond), 0.97) if handles else ("no prefill recorded", 0.5)
    look: dict[str, Any] = {"fontsize": 6, "bbox": {"color": "white", "alpha": 0.8, "pad": 1}} if text else {}
    panel.text(0.5, height, text, ha="center", va="top", transform=panel.transAxes, **look)
    return handles
