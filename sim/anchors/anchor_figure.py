"""The picture of anchors: simulated over measured time per token, and the effect of each assumption."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.figures import GREY, figure, panels, save, shades
from sim.anchors.anchor import Anchor
from sim.anchors.anchor_table import AnchorTable

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)


def draw_anchors(table: AnchorTable, anchors: Sequence[Anchor], path: Path) -> None:
    """Draw a line per number: a dot as assumed, small marks with one assumption changed, and their range."""
    rows = [(anchor, row) for anchor in anchors for row in table.of(anchor.key)]
    drawn = figure(7.0, 0.24 * len(rows) + 0.2 * len(anchors) + 1.0)
    axis = panels(drawn)[0, 0]
    axis.axvline(1.0, color=GREY, linewidth=1)
    places, names = [], []
    place = 0.0
    ratios = [1.0]
    for anchor, colour in zip(anchors, shades(len(anchors)), strict=True):
        label: str | None = anchor.title
        for row in table.of(anchor.key):
            found = table.spread(anchor.key, row["point"])
            places.append(place)
            names.append(row["point"])
            ratios += _line(axis, place, [1 + each["error"] for each in found], colour)
            if row["error"] is not None:
                axis.plot([1 + row["error"]], [place], "o", color=colour, markersize=6, label=label)
                label = None
            place += 1
        place += 0.6
    axis.set_yticks(places, names, fontsize=8)
    axis.set_ylim(place - 0.4, -0.7)
    axis.set_xscale("log")
    axis.set_xlim(min(ratios) / 1.15, max(ratios) * 1.15)
    axis.set_xticks([tick for tick in _TICKS if min(ratios) / 1.15 <= tick <= max(ratios) * 1.15])
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.grid(axis="x", alpha=0.25, linewidth=0.5, which="both")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(
        "simulated over measured time per token (left of 1: simulated too fast)\n"
        "dot: as assumed; marks and line: one assumption changed at a time",
        fontsize=8,
    )
    drawn.legend(loc="outside upper left", frameon=False, fontsize=8)
    save(drawn, path, dpi=160)


def _line(axis: Any, place: float, ratios: Sequence[float], colour: str) -> list[float]:
    if ratios:
        axis.plot([min(ratios), max(ratios)], [place, place], color=colour, alpha=0.45, linewidth=2)
        axis.plot(ratios, [place] * len(ratios), "|", color=colour, markersize=6)
    return list(ratios)
