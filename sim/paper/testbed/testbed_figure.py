"""Draw the implied testbed: where the paper's numbers are met, and the range that simulations reach."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.figures import BLUE, GREY, NAVY, ORANGE, figure, legend
from sim.paper.testbed.testbed_between import refined
from sim.paper.testbed.testbed_fit import best_points, points
from sim.paper.testbed.testbed_numbers import NUMBERS, groups
from sim.paper.testbed.testbed_runs import of_grid

SHOWN_TOLERANCE = 0.10
HIGHEST = 1.5  # largest change drawn; a gain over few hits may be many times as large
TITLES = {"parallel": "all links at once", "serial": "one after the other"}
_COLOURS = {"parallel": BLUE, "serial": ORANGE}
_SMALL = 6.5
_BEST: dict[str, Any] = {"markersize": 4, "markerfacecolor": "white", "markeredgecolor": "black"}
_SIMULATED: dict[str, Any] = {
    "markersize": 2.5,
    "markerfacecolor": "white",
    "markeredgecolor": GREY,
    "markeredgewidth": 0.5,
}


def draw_testbed(table: pd.DataFrame, *, tolerance: float = SHOWN_TOLERANCE) -> Any:
    """Above, the share of numbers that the best reading meets over rate and time per layer; below, all points' values.

    `table` comes from `sim.paper.testbed.testbed_runs.table_of`.
    """
    table = of_grid(table)
    found = points(refined(table))
    loadings = list(table["loading"].unique())
    drawn = figure(7, 2.3 + 1.35 * len(loadings) + 0.15 * len(NUMBERS))
    above, below = drawn.subfigures(2, 1, height_ratios=[0.6 + 1.35 * len(loadings), 1.2 + 0.15 * len(NUMBERS)])
    _maps(above, found, table, loadings, tolerance)
    _ranges(below, found, loadings, tolerance)
    return drawn


def _maps(drawn: Any, found: pd.DataFrame, table: pd.DataFrame, loadings: Sequence[str], tolerance: float) -> None:
    panels = drawn.subplots(len(loadings), len(groups()), squeeze=False, sharex=True, sharey=True)
    for row, loading in zip(panels, loadings, strict=True):
        for panel, (title, keys) in zip(row, groups().items(), strict=True):
            best = best_points(_of(found, loading), tolerance, keys)["met"]
            most = best.groupby(level=["layer_ms", "link_gb_per_s"]).max().unstack("link_gb_per_s")
            shaded = panel.pcolormesh(
                np.log2(_edges(most.columns)), _edges(most.index), most / len(keys), vmin=0, vmax=1, cmap="cividis"
            )
            panel.set_title(f"{title}\nat most {most.max().max():.0f} of {len(keys)}", fontsize=_SMALL)
            simulated = table[["link_gb_per_s", "layer_ms"]].drop_duplicates()
            panel.plot(
                np.log2(simulated["link_gb_per_s"]), simulated["layer_ms"], "o", clip_on=False, zorder=5, **_SIMULATED
            )
            links = np.sort(simulated["link_gb_per_s"].unique())
            panel.set_xticks(np.log2(links), [f"{link:g}" for link in links], fontsize=_SMALL)
            panel.set_yticks(np.sort(simulated["layer_ms"].unique()))
            panel.tick_params(labelsize=_SMALL)
        row[0].set_ylabel(f"{TITLES[loading]}\nCPU time per layer [ms]", fontsize=_SMALL)
    drawn.supxlabel("rate of each link [GB/s]", fontsize=_SMALL)
    bar = drawn.colorbar(shaded, ax=panels, shrink=0.8, pad=0.01, aspect=30)
    bar.set_label(f"share met within {tolerance * 100:.0f} points", fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL)


def _ranges(drawn: Any, found: pd.DataFrame, loadings: Sequence[str], tolerance: float) -> None:
    panel = drawn.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    best = best_points(found, tolerance).index[0]
    for place, number in enumerate(NUMBERS):
        first = place == 0
        for step, loading in enumerate(loadings):
            values = _of(found, loading)[number.key].dropna().round(2).unique()  # to whole percents
            height = place + 0.3 * (step - (len(loadings) - 1) / 2)
            label = f"points, {TITLES[loading]}" if first else None
            ticks: dict[str, Any] = {"marker": "|", "s": 16, "linewidths": 1.0, "color": _COLOURS[loading]}
            panel.scatter(100 * values, [height] * len(values), label=label, **ticks)
        panel.plot(100 * number.change, place, "D", color=NAVY, markersize=4, label="the paper" if first else None)
        there = 100 * float(found.loc[[best], number.key].iloc[0])
        panel.plot(there, place, "o", label="best point" if first else None, **_BEST)
        if (most := found[number.key].max()) > HIGHEST:
            note = f"up to +{most * 100:.0f} % →"
            panel.annotate(note, (100 * HIGHEST, place), ha="right", va="center", fontsize=_SMALL)
    panel.axvline(0, color=GREY, linewidth=0.7)
    panel.set_xlim(-100, 100 * HIGHEST)
    panel.set_yticks(range(len(NUMBERS)), [f"{each.title} (fig. {each.figure})" for each in NUMBERS])
    panel.tick_params(labelsize=_SMALL)
    panel.invert_yaxis()
    panel.set_xlabel("FineMoE's change, mean over the models [%]", fontsize=_SMALL)
    legend(panel, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    for text in panel.get_legend().get_texts():
        text.set_fontsize(_SMALL)


def _of(found: pd.DataFrame, loading: str) -> pd.DataFrame:
    return found[found.index.get_level_values("loading") == loading]


def _edges(values: Any) -> Any:
    """The borders of cells around values; a single value gets a narrow cell."""
    centres = np.asarray(values, float)
    if len(centres) == 1:
        return np.array([centres[0] * 0.9, centres[0] * 1.1]) if centres[0] else np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([centres[:1], middles, centres[-1:]])
