"""Grouped bars: a solid one for the even footing, and behind it a pale, wider one for the released footing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from common.figures import GREY, legend_above
from sim.paper.footings import EVEN, RELEASED

PALE = 0.35
_ROOM = 0.85  # of the distance between two groups, for the bars of one


class Place(NamedTuple):
    """The horizontal place of a bar."""

    centre: float
    width: float

    @property
    def left(self) -> float:
        """Its left end."""
        return self.centre - self.width / 2

    @property
    def right(self) -> float:
        """Its right end."""
        return self.centre + self.width / 2


def place_of(group: int, bar: int, bars: int) -> Place:
    """The place of a bar; groups are 1 apart."""
    width = _ROOM / bars
    return Place(group + (bar - (bars - 1) / 2) * width, width)


def draw_footing_bars(
    panel: Any, rows: pd.DataFrame, column: str, *, groups: str, bars: str, colours: Mapping[str, str]
) -> None:
    """Draw a group of bars per value of the column `groups`, with one bar per name in `colours`, on both footings."""
    names = list(dict.fromkeys(rows[groups]))
    for bar, (name, colour) in enumerate(colours.items()):
        places = [place_of(group, bar, len(colours)) for group in range(len(names))]
        at, width = [place.centre for place in places], places[0].width
        of_bar = rows[rows[bars] == name]
        panel.bar(at, heights(of_bar, RELEASED.name, column, groups, names), 0.94 * width, color=colour, alpha=PALE)
        panel.bar(at, heights(of_bar, EVEN.name, column, groups, names), 0.62 * width, color=colour)
    panel.set_xticks(range(len(names)), [str(name) for name in names], fontsize=8)
    panel.set_xlim(-0.55, len(names) - 0.45)
    panel.tick_params(axis="y", labelsize=7)
    panel.grid(axis="y", alpha=0.3, linewidth=0.5)
    panel.set_axisbelow(True)


def mark_other_forms(
    panel: Any, rows: pd.DataFrame, column: str, *, groups: str, bars: str, names: Sequence[Any], colours: Iterable[str]
) -> None:
    """Draw a black line over a bar for its other form on the even footing; `names` are the groups in order."""
    order = list(colours)
    for row in rows[rows["footing"] == EVEN.name].to_dict("records"):
        at = place_of(names.index(row[groups]), order.index(row[bars]), len(order))
        panel.hlines(row[column], at.left, at.right, color="black", linewidth=1)


def footing_legend(drawn: Any, colours: Mapping[str, str], *others: Any, columns: int) -> None:
    """A legend above the panels for the colours, the pale bars and the handles in `others`."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles.append(Patch(color=GREY, alpha=PALE, label="pale: as released"))
    shown = [*handles, *others]
    legend_above(drawn, shown, [each.get_label() for each in shown], columns=columns)


def heights(rows: pd.DataFrame, footing: str, column: str, groups: str, names: Sequence[Any]) -> list[float]:
    """The value of each group on a footing; NaN if there is none."""
    values = rows[rows["footing"] == footing].set_index(groups)[column]
    return [float(values.get(name, float("nan"))) for name in names]
