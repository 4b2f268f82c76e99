"""Figure 8: hit rate over similarity, first set of prompts."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from typing_extensions import override

from sim.paper.analyses.prompt_pairs import SEMANTIC, TRAJECTORY
from sim.paper.claims.claim import SAME_ORDER, Claim, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.similarity_scatter import SETTINGS, coefficient, draw_similarity, similarity_table
from sim.paper.study import Study

_FLAT = (
    "Phi on chat alone falls, and it depends on the reading (table 8): both coefficients are positive there as a "
    "search. Flat maps are like all others: with the entropy of a prompt's maps taken out, the trajectory coefficient "
    "is positive, too"
)


class Figure8(PaperFigure):
    """A panel per model and similarity."""

    key = "8"
    title = "Hit rate over similarity score, first set of prompts"
    settings = SETTINGS

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per trace, reading and similarity, and of the main reading a row per prompt."""
        return similarity_table(study, study.of_first_prompts())

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        """Points, and the coefficients of all readings."""
        return draw_similarity(table)

    @override
    def claims(self) -> Sequence[Claim]:
        """That the hit rate rises with the score."""
        return [
            Claim(
                key=f"8-hit-{kind}",
                figure="8",
                says=f"The hit rate rises with the {kind} similarity score (here: the coefficient is positive)",
                rule="order",
                ours=partial(_rising, kind=kind),
                reasons={SAME_ORDER: _FLAT},
            )
            for kind in (SEMANTIC, TRAJECTORY)
        ]


def _rising(tables: Tables, *, kind: str) -> pd.DataFrame:
    def rises(rows: pd.DataFrame) -> tuple[float, str]:
        found, _ = coefficient(rows, kind)
        return (math.nan, "") if math.isnan(found) else (float(found > 0), f"r = {found:.2f}".replace("-", "−"))

    return each_trace(tables["8"], rises)
