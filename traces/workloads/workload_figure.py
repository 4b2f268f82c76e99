"""Figure of a workload: arrivals over time, and lengths."""

from pathlib import Path
from typing import Any

import numpy as np

from common.figures import BLUE, ORANGE, figure, legend, panels, save
from traces.workloads.arrivals import MINUTE_S, Workload, counts_per


def draw_workload(workload: Workload, path: Path) -> None:
    """Draw three panels: arrivals over time, and histograms of prompt and output lengths."""
    drawn = figure(12, 3.6)
    over_time, *histograms = panels(drawn, 1, 3, width_ratios=(2, 1, 1))[0]

    # Up to ten minutes per second; longer workloads per minute, or the bars would be too thin to see.
    by_minute = workload.duration_s > 10 * MINUTE_S
    width_s, unit = (MINUTE_S, "minute") if by_minute else (1.0, "second")
    counts = counts_per(workload, width_s)
    over_time.stairs(counts, np.arange(len(counts) + 1), fill=True, color=BLUE)
    over_time.set(xlabel=f"time since the first arrival [{'min' if by_minute else 's'}]", ylabel=f"requests per {unit}")

    lengths: list[tuple[Any, str]] = [(workload.prompt_tokens, "prompt"), (workload.output_tokens, "output")]
    for axes, (tokens, name) in zip(histograms, lengths, strict=True):
        # Logarithmic bins, since the longest is often a hundred times the median; edges at whole tokens.
        edges = np.unique(np.geomspace(tokens.min(), tokens.max() + 1, 50).round())
        axes.hist(tokens, bins=edges, color=BLUE)
        axes.axvline(float(tokens.mean()), color=ORANGE, label=f"mean {tokens.mean():,.0f}")
        axes.set(xlabel=f"{name} length [tokens]", ylabel="requests")
        scale_lengths(axes, least=float(edges[0]), most=float(edges[-1]))
        legend(axes)
    drawn.suptitle(workload.source, fontsize=10)
    save(drawn, path)


def scale_lengths(axes: Any, *, least: float, most: float) -> None:
    """A logarithmic axis with labels that do not overlap; a linear one if all lengths are much alike."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    decades = np.log10(most / least)
    if decades > 0.5:  # fewer need not contain two of 1, 2, 5, 10, ...
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
