"""The figure of a sweep's metric over one of its axes, with a line per policy and a band over seeds."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from common.errors import FieldError, nearest
from sim.sweeps.bootstrap import LEVEL, Bootstrap
from sim.sweeps.metric_labels import axis_label, metric_label
from sim.sweeps.short_names import legend, short_names
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_columns import metrics, plain, setting_axes, value_text
from sim.sweeps.sweep_panels import Style, by_setting, done_runs, finish, grid, legend_name, panel_title, styles

TICK = 16  # characters of a tick label
WIDE = 30  # an axis is logarithmic from this ratio of largest to smallest value on


def draw_axis(sweep: Sweep, path: Path, *, metric: str = "tpot_s_mean", axis: str | None = None) -> None:
    """Draw the mean over seeds of a metric over an axis, with bands of the 95 % bootstrap interval.

    Without `axis`, the first axis with several numbers is used. Each setting of the other axes is a panel. Over texts,
    points are not joined. Raises a `FieldError` on `metric` or `over` if the sweep has no such column.
    """
    runs = done_runs(sweep, path)
    known = metrics(runs, sweep.axes)
    if metric not in known:
        raise FieldError("metric", f"the sweep has no metric {metric!r}; {nearest(metric, known)}")
    if runs[metric].isna().all():
        raise FieldError("metric", f"no run of the sweep has a value of {metric}")
    over = _axis_of(sweep, runs) if axis is None else axis
    if over not in (*sweep.axes, "policy", "seed"):
        raise FieldError("over", f"the sweep has no axis {over!r}; {nearest(over, sweep.axes)}")

    axes = tuple(each for each in setting_axes(sweep.axes) if each != over)
    lines = runs.assign(line=[_line(policy, over) for policy in runs["policy"]])
    names = list(dict.fromkeys(lines["line"]))
    style, settings = styles(names), by_setting(lines, axes)
    drawn, panels = grid(axes, list(settings), across=1, path=path, sharex=True, sharey=True)
    scale = metric_label(metric, float(runs[metric].max()))
    values = list(dict.fromkeys(plain(value) for value in runs[over] if plain(value) is not None))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = {value: value if numeric else place for place, value in enumerate(values)}

    ticks = short_names([value_text(value) for value in values], TICK)
    handles: dict[str, Any] = {}
    spread = False
    for panel, (setting, rows) in zip(panels.flat, settings.items(), strict=False):
        for number, name in enumerate(names):
            own = rows[rows["line"] == name]
            points = _points(own, over, metric, scale.factor)
            if not len(points):
                continue
            spread |= bool(points["low"].notna().any())
            shift = 0.0 if numeric or over == "policy" else 0.5 * ((number + 0.5) / len(names) - 0.5)
            handle = _draw(panel, points, places, shift, style[name], joined=numeric)
            handles.setdefault(legend_name(name, lines[lines["line"] == name]), handle)
        panel.set(title=panel_title(axes, setting), xlabel=axis_label(over))
        if panel in panels[:, 0]:
            panel.set_ylabel(fill(f"simulated {scale.text}", 40))
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=True)
        _set_scale(panel, values, list(ticks.values()), numeric)
    for empty in panels.flat[len(settings) :]:
        empty.set_visible(False)
    explanation = f"mean over seeds; {'bands' if numeric else 'bars'}: {LEVEL:.0%} bootstrap interval over seeds"
    one = "a point per seed" if over == "seed" else "one seed, so without intervals"
    notes = [explanation if spread else one]
    notes += [f"dashed: without a {over}"] * bool(runs[over].isna().any())
    notes += legend(ticks) if over != "policy" else []  # the legend has the policies
    finish(drawn, sweep, path, handles, "; ".join(notes))


def _axis_of(sweep: Sweep, runs: pd.DataFrame) -> str:
    """The first axis with several numbers, else the first with several values, else the policy."""
    varied = [axis for axis in sweep.axes if axis not in ("policy", "seed") and runs[axis].nunique() > 1]
    numeric = [axis for axis in varied if str(runs[axis].dtype) in ("float64", "Int64")]
    return next(iter([*numeric, *varied]), "policy")


def _line(policy: str, over: str) -> str:
    """The policy without the setting that is the picture's axis."""
    if not over.startswith("policy."):
        return policy
    return re.sub(rf",{re.escape(over.removeprefix('policy.'))}=[^,+]*", "", policy, count=1)


def _points(runs: pd.DataFrame, over: str, metric: str, factor: float) -> pd.DataFrame:
    """The value on the axis (None if a run has none), and mean, low and high of the metric."""
    bootstrap, rows = Bootstrap(np.random.default_rng(0)), []
    for (value,), group in by_setting(runs, [over]).items():
        seeds = group.drop_duplicates("seed")[metric].to_numpy(float, na_value=np.nan) * factor
        if found := bootstrap.estimate(seeds[~np.isnan(seeds)].tolist()):
            rows.append({"value": value, "mean": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows).astype({"low": float, "high": float}) if rows else pd.DataFrame()


def _draw(panel: Any, points: pd.DataFrame, places: dict[Any, Any], shift: float, style: Style, *, joined: bool) -> Any:
    """Draw a policy's line with its band, or points with bars; a dashed level if it has no value on the axis."""
    look: dict[str, Any] = {"color": style.color, "marker": style.marker, "markersize": style.size}
    without = points["value"].isna()
    handle = None
    ends = (min(places.values(), default=0), max(places.values(), default=1))
    for level in points[without].to_dict("records"):
        panel.fill_between(ends, [level["low"]] * 2, [level["high"]] * 2, color=style.color, alpha=0.2, linewidth=0)
        handle = panel.plot(ends, [level["mean"]] * 2, "--", linewidth=style.size / 4, **look)[0]
    there = points[~without]
    if there.empty:
        return handle
    there = there.assign(place=[places[value] + shift for value in there["value"]]).sort_values("place")
    if joined:
        panel.fill_between(there["place"], there["low"], there["high"], color=style.color, alpha=0.2, linewidth=0)
        return panel.plot(there["place"], there["mean"], "-", linewidth=style.size / 2.5, **look)[0]
    spread = there.dropna(subset=["low"])  # no bar for a single seed
    panel.vlines(spread["place"], spread["low"], spread["high"], color=style.color, linewidth=1.5)
    return panel.plot(there["place"], there["mean"], linestyle="none", **look)[0]


def _set_scale(panel: Any, values: Sequence[Any], names: Sequence[str], numeric: bool) -> None:
    if not numeric:
        crowded = sum(map(len, names)) > 36
        panel.set_xticks(range(len(values)), names, rotation=35 if crowded else 0, ha="right" if crowded else "center")
        panel.set_xlim(-0.6, len(values) - 0.4)
    elif values and min(values) > 0 and max(values) >= WIDE * min(values):
        panel.set_xscale("log")
        panel.set_xticks(values, names)
        panel.minorticks_off()
    elif all(isinstance(value, int) for value in values):
        panel.xaxis.get_major_locator().set_params(integer=True)
