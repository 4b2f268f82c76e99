"""Systems side by side as bars: TTFT, TPOT and hit rate (paper, figures 10 and 13)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.figures import GREY, figure, panels
from sim.paper.lineup import main_forms, other_forms
from sim.paper.paper_systems import DEEPSPEED, SYSTEMS

ROWS = {"ttft_ms": "TTFT [ms]", "tpot_ms": "TPOT [ms]", "counted_hit_rate": "hit rate [%]"}
PALE = 0.35
WIDTH = 0.17  # of a system's place; groups are 1 apart


def draw_bars(table: pd.DataFrame, *, groups: str = "prompts") -> Any:
    """A row of panels per metric and a column per model; in each, a group of bars per set of prompts.

    The solid bar has the even footing, the pale one behind it the released code's, a black line another form of the
    system on the even footing. Where DeepSpeed's bars are cut off, their values are written into them.
    """
    models = list(table["model"].unique())
    drawn = figure(7, 5.4)
    grid = panels(drawn, len(ROWS), len(models), sharex="col")
    for column, model in enumerate(models):
        rows = table[table["model"] == model]
        names = list(rows[groups].unique())
        for panel, metric in zip(grid[:, column], ROWS, strict=True):
            scale = 100 if metric == "counted_hit_rate" else 1
            _draw(panel, rows.assign(shown=rows[metric] * scale), names, groups)
            panel.tick_params(labelsize=7)
            if metric != "counted_hit_rate":
                _cut(panel, rows, metric, names, groups)
            panel.grid(axis="y", alpha=0.3, linewidth=0.5)
            panel.set_axisbelow(True)
        grid[0, column].set_title(model, fontsize=9)
        grid[-1, column].set_xticks(range(len(names)), names, fontsize=8)
        grid[-1, column].set_ylim(0, 105)
        grid[-1, column].set_xlim(-0.55, len(names) - 0.45)
    for panel, label in zip(grid[:, 0], ROWS.values(), strict=True):
        panel.set_ylabel(label, fontsize=8)
    _legend(drawn, has_others=not other_forms(table).empty)
    return drawn


def _draw(panel: Any, rows: pd.DataFrame, names: Sequence[str], groups: str) -> None:
    for place, system in enumerate(SYSTEMS):
        at = np.arange(len(names)) + (place - (len(SYSTEMS) - 1) / 2) * WIDTH
        main = main_forms(rows)
        of_system = main[main["system"] == system.name]
        look: dict[str, Any] = {"color": system.colour}
        panel.bar(at, _heights(of_system, "released", names, groups), 0.94 * WIDTH, alpha=PALE, **look)
        panel.bar(at, _heights(of_system, "even", names, groups), 0.62 * WIDTH, **look)
        others = other_forms(rows)
        heights = _heights(others[others["system"] == system.name], "even", names, groups)
        panel.hlines(heights, at - 0.5 * WIDTH, at + 0.5 * WIDTH, color="black", linewidth=1)


def _cut(panel: Any, rows: pd.DataFrame, metric: str, names: Sequence[str], groups: str) -> None:
    """End the axis where DeepSpeed would flatten the others; the values of its bars that go beyond are written."""
    slow = rows["system"] == DEEPSPEED.name
    highest = rows.loc[~slow, metric].max()
    top = min(1.1 * rows[metric].max(), 1.6 * highest)
    if not top > 0:
        return
    panel.set_ylim(0, top)
    at = (SYSTEMS.index(DEEPSPEED) - (len(SYSTEMS) - 1) / 2) * WIDTH
    shown = rows[slow].assign(shown=rows[metric])
    pairs = zip(*(_heights(shown, footing, names, groups) for footing in ("even", "released")), strict=True)
    for place, (even, released) in enumerate(pairs):
        beyond = [f"{value:.0f}" for value in (even, released) if value > top]
        if beyond:
            look: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "top", "fontsize": 5.5}
            colour = "white" if even > top else "black"  # on the solid bar, or on the pale one
            panel.text(place + at, 0.97 * top, ", ".join(dict.fromkeys(beyond)), color=colour, **look)


def _heights(rows: pd.DataFrame, footing: str, names: Sequence[str], groups: str) -> list[float]:
    """The value of each group on a footing; NaN without one."""
    shown = rows[rows["footing"] == footing].set_index(groups)["shown"]
    return [float(shown.get(name, float("nan"))) for name in names]


def _legend(drawn: Any, *, has_others: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=system.colour, label=system.title) for system in SYSTEMS]
    handles.append(Patch(color=GREY, alpha=PALE, label="pale: as released"))
    if has_others:
        handles.append(Line2D([], [], color="black", linewidth=1, label="the system's other form"))
    drawn.legend(handles=handles, frameon=False, fontsize=7, ncols=4, loc="outside upper center")
