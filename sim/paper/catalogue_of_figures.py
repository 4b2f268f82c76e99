"""All tables and figures of the paper that are reproduced here, in the paper's order."""

from collections.abc import Sequence

from common.errors import FieldError, nearest
from sim.paper.figures.figure_1b import Figure1b
from sim.paper.figures.figure_3a import Figure3a
from sim.paper.figures.figure_3b import Figure3b
from sim.paper.figures.figure_3c import Figure3c
from sim.paper.figures.figure_4 import Figure4
from sim.paper.figures.figure_8 import Figure8
from sim.paper.figures.figure_9 import Figure9
from sim.paper.figures.figure_10 import Figure10
from sim.paper.figures.figure_12 import Figure12
from sim.paper.figures.figure_13 import Figure13
from sim.paper.figures.figure_14a import Figure14a
from sim.paper.figures.figure_14b import Figure14b
from sim.paper.figures.figure_15 import Figure15
from sim.paper.figures.figure_16a import Figure16a
from sim.paper.figures.figure_16b import Figure16b
from sim.paper.figures.figure_17 import Figure17
from sim.paper.figures.figure_18 import Figure18
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.table_1 import Table1
from sim.paper.figures.theory_of_coverage import TheoryOfCoverage
from sim.paper.testbed.implied_testbed import ImpliedTestbed

FIGURES: tuple[PaperFigure, ...] = (
    Table1(),
    Figure1b(),
    Figure3a(),
    Figure3b(),
    Figure3c(),
    Figure4(),
    Figure8(),
    Figure9(),
    TheoryOfCoverage(),
    Figure10(),
    Figure12(),
    Figure13(),
    Figure14a(),
    Figure14b(),
    Figure15(),
    Figure16a(),
    Figure16b(),
    Figure17(),
    Figure18(),
    ImpliedTestbed(),
)


_WITHOUT = dict.fromkeys(("1a", "2", "5", "6", "7"), "is a diagram without data")
_WITHOUT["11"] = "shows online serving, which is not simulated yet"


def figures_named(keys: Sequence[str]) -> Sequence[PaperFigure]:
    """The figures with these keys, in the paper's order; without keys, all of them. `3` means 3a, 3b and 3c."""
    if not keys:
        return FIGURES
    known = [figure.key for figure in FIGURES]
    for key in keys:
        if key in _WITHOUT:
            raise FieldError("figure", f"figure {key} {_WITHOUT[key]}")
        if not any(_names(key, each) for each in known):
            raise FieldError("figure", f"unknown figure {key!r}; {nearest(key, known)}")
    return [figure for figure in FIGURES if any(_names(key, figure.key) for key in keys)]


def _names(key: str, figure: str) -> bool:
    return figure == key or (figure[:-1] == key and figure[-1].isalpha())
