"""Recall over prefetch distance, drawn."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from common.figures import SERIES, figure, legend, panels, save
from sim.labels import NOT_CHARGED

MEASURES = {"recall": "executed experts that were planned [%]", "recall_at_k": "executed experts among the first K [%]"}


def draw(summary: pd.DataFrame, title: str, path: Path, *, uncharged: Collection[str] = ()) -> None:
    """Draw recall over distance, a line per policy: solid for layers d and later at distance d, dotted for all.

    The legend marks `uncharged` policies, whose prediction time is not charged.
    """
    phases = [each for each in (False, True) if (summary["prefill"] == each).any()]
    drawn = figure(11, 0.8 + 3.6 * len(phases))
    grid = panels(drawn, len(phases), len(MEASURES), sharex=True, sharey="row")
    for row, prefill in zip(grid, phases, strict=True):
        for axes, (measure_name, label) in zip(row, MEASURES.items(), strict=True):
            shown = summary[summary["prefill"] == prefill]
            for number, (policy, each) in enumerate(shown.groupby("policy", sort=False)):
                name = f"{policy}\n({NOT_CHARGED.text})" if policy in uncharged else str(policy)
                color, distance = SERIES[number % len(SERIES)], each["distance"]
                axes.plot(distance, each[f"{measure_name}_ahead"] * 100, "o-", color=color, label=name, markersize=4)
                axes.plot(distance, each[measure_name] * 100, ":", color=color)
            axes.set(xlabel="prefetch distance d [layers]", ylabel=label, title="prefill" if prefill else "decode")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
    legend(grid[0, -1], loc="upper left", bbox_to_anchor=(1, 1))
    drawn.suptitle(f"{title}\nsolid: layers d and later; dotted: all layers", fontsize=10)
    save(drawn, path)
