"""The figure of a what-if sweep: time per output token over the factor of each resource, a panel per policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.figures import GREY
from sim.planning.resources import FACTORS, factor_text
from sim.planning.whatif_report import at_1x
from sim.sweeps.metric_labels import metric_label
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_panels import by_setting, done_runs, finish, grid, legend_name, styles

TIMES = (1, 1.5, 2, 3, 5, 7)  # labelled ticks, times powers of ten
LEAST_RANGE = 1.1  # smallest range of the vertical axis, so that flat lines look flat


def draw_what_if(sweep: Sweep, path: Path) -> None:
    """Draw TPOT (TTFT if nothing is decoded) over the factor, a line per resource, on logarithmic axes."""
    runs = done_runs(sweep, path)
    metric = next(each for each in ("tpot_s_mean", "ttft_s_mean") if runs[each].notna().any())
    style = styles(list(dict.fromkeys(runs["resource"])))
    settings = by_setting(runs, ["policy"])
    drawn, panels = grid(["policy"], list(settings), across=1, path=path, sharex=True, sharey=True)
    scale = metric_label(metric, float(runs[metric].max()))
    handles: dict[str, Any] = {}
    for panel, ((policy,), rows) in zip(panels.flat, settings.items(), strict=False):
        panel.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
        for (resource,), own in by_setting(rows, ["resource"]).items():
            points = own.sort_values("factor")
            if len(points) > 1:
                color, marker, size = style[str(resource)]
                look: dict[str, Any] = {"color": color, "marker": marker, "markersize": size, "linewidth": size / 2.5}
                (handle,) = panel.plot(points["factor"], points[metric] * scale.factor, **look)
                handles.setdefault(str(resource), handle)
        panel.set(title=legend_name(str(policy), rows), xlabel="amount of the resource")
        panel.title.set_fontsize(9)
        _set_scales(panel)
        if panel in panels[:, 0]:
            panel.set_ylabel(f"simulated {scale.text}")
    for empty in panels.flat[len(settings) :]:
        empty.set_visible(False)
    explanation = "one resource varies, the others are as at 1× (dotted)"
    finish(drawn, replace(sweep, frame=at_1x(sweep.frame)), path, handles, explanation)


def _set_scales(panel: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_xscale("log")
    panel.set_xticks(FACTORS, [*map(factor_text, FACTORS)], fontsize=8)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    if high < low * LEAST_RANGE**2:
        middle = (low * high) ** 0.5
        panel.set_ylim(middle / LEAST_RANGE, middle * LEAST_RANGE)
    panel.yaxis.set_major_locator(LogLocator(subs=TIMES, numticks=100))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.tick_params(labelbottom=True)
    panel.grid(alpha=0.3)
