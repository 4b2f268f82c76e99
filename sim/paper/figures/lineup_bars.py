"""Systems side by side as bars: TTFT, TPOT and hit rate (paper, figures 10 and 13)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from common.figures import figure, panels
from sim.paper.figures.footing_bars import draw_footing_bars, footing_legend, heights, mark_other_forms, place_of
from sim.paper.figures.lineup import main_forms, other_forms
from sim.paper.footings import EVEN, RELEASED
from sim.paper.paper_systems import DEEPSPEED, SYSTEMS

ROWS = {"ttft_ms": "TTFT [ms]", "tpot_ms": "TPOT [ms]", "counted_hit_rate": "hit rate [%]"}
BEYOND = (
    "DeepSpeed's bars that leave the panel are labelled with their values: even, as released. A single number is the "
    "released value, or both."
)
"""Part of the settings of figures that `draw_bars` draws."""
COLOURS = {system.name: system.colour for system in SYSTEMS}


def draw_bars(table: pd.DataFrame, *, groups: str = "prompts") -> Any:
    """A row of panels per metric and a column per model, with a group of bars per set of prompts.

    Solid bars show the even footing, the pale bars behind them the released one, and black lines another form of the
    system on the even footing. DeepSpeed's bars that are cut off are labelled with their values.
    """
    from matplotlib.lines import Line2D

    models = list(table["model"].unique())
    drawn = figure(7, 5.4)
    grid = panels(drawn, len(ROWS), len(models), sharex="col")
    for column, model in enumerate(models):
        rows = table[table["model"] == model]
        names = list(rows[groups].unique())
        for panel, metric in zip(grid[:, column], ROWS, strict=True):
            scale = 100 if metric == "counted_hit_rate" else 1
            shown = rows.assign(shown=rows[metric] * scale)
            main, others = main_forms(shown), other_forms(shown)
            draw_footing_bars(panel, main, "shown", groups=groups, bars="system", colours=COLOURS)
            mark_other_forms(panel, others, "shown", groups=groups, bars="system", names=names, colours=COLOURS)
            if metric != "counted_hit_rate":
                _cut(panel, shown, names, groups)
        grid[0, column].set_title(model, fontsize=9)
        grid[-1, column].set_ylim(0, 105)
    for panel, label in zip(grid[:, 0], ROWS.values(), strict=True):
        panel.set_ylabel(label, fontsize=8)
    titles = {system.title: system.colour for system in SYSTEMS}
    black = Line2D([], [], color="black", linewidth=1, label="the system's other form")
    footing_legend(drawn, titles, *([] if other_forms(table).empty else [black]), columns=4)
    return drawn


def _cut(panel: Any, rows: pd.DataFrame, names: Sequence[str], groups: str) -> None:
    """Limit the axis so that DeepSpeed does not flatten the others, and label its bars that go beyond."""
    slow = rows["system"] == DEEPSPEED.name
    highest = rows.loc[~slow, "shown"].max()
    top = min(1.1 * rows["shown"].max(), 1.6 * highest)
    if not top > 0:
        return
    panel.set_ylim(0, top)
    bars = (heights(rows[slow], footing, "shown", groups, names) for footing in (EVEN.name, RELEASED.name))
    for place, (even, released) in enumerate(zip(*bars, strict=True)):
        beyond = [f"{value:.0f}" for value in (even, released) if value > top]
        if beyond:
            at = place_of(place, SYSTEMS.index(DEEPSPEED), len(SYSTEMS)).centre
            look: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "top", "fontsize": 5.5}
            colour = "white" if even > top else "black"  # on the solid bar, or on the pale one
            panel.text(at, 0.97 * top, ", ".join(dict.fromkeys(beyond)), color=colour, **look)
