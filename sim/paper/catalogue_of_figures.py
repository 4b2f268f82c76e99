"""Every table and figure of the paper that has data and is reproduced here, in the paper's order."""

from collections.abc import Sequence

from common.errors import FieldError, nearest
from sim.paper.paper_figure import PaperFigure

FIGURES: tuple[PaperFigure, ...] = ()


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
