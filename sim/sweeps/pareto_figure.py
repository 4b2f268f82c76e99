"""Pareto fronts of a sweep: time per output token against expert memory, hit rates against bytes moved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.sweeps.metric_labels import metric_label
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import setting_axes
from sim.sweeps.sweep_panels import Style, by_setting, done_runs, finish, grid, legend_name, panel_title, styles
from sim.sweeps.sweep_statistics import SweepStatistics

# Horizontal and vertical metric of each column of panels, and whether a larger vertical value is better.
FRONTS = (
    ("expert_memory_bytes", "tpot_s_mean", False),
    ("bytes_per_token", "hit_rate", True),
    ("bytes_per_token", "hit_or_late_rate", True),
)


def on_front(less: Sequence[float], also_less: Sequence[float]) -> NDArray[np.bool_]:
    """`[N]`: whether each point is on the Pareto front, that is, not dominated; smaller is better in both metrics.

    A point dominates another if it is no worse in both and better in one; equal points do not dominate each other.
    """
    front = np.zeros(len(less), bool)
    last = np.inf, np.inf
    for place in np.lexsort((also_less, less)).tolist():
        point = less[place], also_less[place]
        if point == last or point[1] < last[1]:
            front[place], last = True, point
    return front


def draw_pareto(sweep: Sweep, path: Path) -> None:
    """Draw three panels per setting of the axes other than the cache, with a point per policy and cache.

    Points are means over seeds. Policies that know the future or keep every expert are hollow, and not on the front.
    """
    runs = done_runs(sweep, path)
    statistics = SweepStatistics(sweep.frame, sweep.axes, np.random.default_rng(0))
    outside = statistics.prophets | statistics.preloaded
    axes = tuple(axis for axis in setting_axes(sweep.axes) if not axis.startswith("cache."))
    settings, style = by_setting(runs, axes), styles(statistics.policies)
    drawn, panels = grid(axes, list(settings), across=len(FRONTS), path=path)

    handles: dict[str, Any] = {}
    for row, (setting, rows) in zip(panels, settings.items(), strict=True):
        for panel, (x, y, more) in zip(row, FRONTS, strict=True):
            points = _points(rows, sweep, x, y)
            scales = [metric_label(name, float(runs.reindex(columns=[name])[name].max())) for name in (x, y)]
            points = points.assign(**{x: points[x] * scales[0].factor, y: points[y] * scales[1].factor})
            for policy, own in points.groupby("policy", sort=False):
                name = legend_name(str(policy), runs[runs["policy"] == policy])
                if policy in outside:
                    name += "\n(not on the front)"
                handles.setdefault(name, _scatter(panel, own[x], own[y], style[str(policy)], policy not in outside))
            front = _draw_front(panel, points[~points["policy"].isin(outside)], x, y, more)
            if front is not None:
                handles.setdefault("Pareto front", front)
            panel.set(
                title=panel_title(axes, setting),
                xlabel=f"simulated {scales[0].text}\n(less is better)",
                ylabel=f"simulated {scales[1].text}\n({'more' if more else 'less'} is better)",
            )
            panel.title.set_fontsize(9)
            panel.grid(alpha=0.3)
            panel.margins(0.08)
    if "Pareto front" in handles:
        handles["Pareto front"] = handles.pop("Pareto front")  # last in the legend
    finish(drawn, sweep, path, handles, "a point per policy and cache, mean over seeds")


def _points(runs: pd.DataFrame, sweep: Sweep, x: str, y: str) -> pd.DataFrame:
    """A row per policy and setting with the means over seeds of both metrics; none if either is missing."""
    rows = []
    for key, group in by_setting(runs, ["policy", *setting_axes(sweep.axes)]).items():
        means = group.drop_duplicates("seed").reindex(columns=[x, y]).astype("float64").mean()
        rows.append({"policy": key[0], x: float(means[x]), y: float(means[y])})
    return pd.DataFrame(rows).dropna()


def _scatter(panel: Any, x: Any, y: Any, style: Style, filled: bool) -> Any:
    face = style.color if filled else "none"
    return panel.scatter(x, y, marker=style.marker, s=style.size**2, facecolors=face, edgecolors=style.color, zorder=3)


def _draw_front(panel: Any, points: pd.DataFrame, x: str, y: str, more: bool) -> Any:
    """Draw the front as steps, from the smallest x on."""
    if points.empty:
        return None
    sign = -1 if more else 1
    front = points[on_front(points[x].tolist(), (sign * points[y]).tolist())].sort_values([x, y])
    return panel.step(front[x], front[y], where="post", color="black", linewidth=0.8, zorder=2)[0]
