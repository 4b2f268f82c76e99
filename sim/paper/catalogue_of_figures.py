"""Every table and figure of the paper that has data and is reproduced here, in the paper's order."""

from collections.abc import Sequence

from common.errors import FieldError, nearest
from sim.paper.figure_1b import Figure1b
from sim.paper.figure_10 import Figure10
from sim.paper.figure_12 import Figure12
from sim.paper.figure_13 import Figure13
from sim.paper.figure_17 import Figure17
from sim.paper.paper_figure import PaperFigure

FIGURES: tuple[PaperFigure, ...] = (
    Figure1b(),
    Figure10(),
    Figure12(),
    Figure13(),
    Figure17(),
)


def figures_named(keys: Sequence[str]) -> Sequence[PaperFigure]:
    """The figures with these keys, in the paper's order; all without keys. `3` names 3a, 3b and 3c."""
    if not keys:
        return FIGURES
    known = [figure.key for figure in FIGURES]
    for key in keys:
        if not any(_names(key, each) for each in known):
            raise FieldError("figure", f"unknown figure {key!r}; {nearest(key, known)}")
    return [figure for figure in FIGURES if any(_names(key, figure.key) for key in keys)]


def _names(key: str, figure: str) -> bool:
    return figure == key or (figure[:-1] == key and figure[-1].isalpha())
