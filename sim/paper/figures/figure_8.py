"""Figure 8: hit rate over similarity, first set of prompts."""

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
from typing_extensions import override

from sim.paper.analyses.prompt_pairs import SEMANTIC, TRAJECTORY
from sim.paper.claims.claim import SAME_ORDER, Claim, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.similarity_scatter import SimilarityScatter, coefficient, similarity_table
from sim.paper.study import Study

_FLAT = (
    "Only Phi on chat falls, and that depends on the reading (table 8): read as a search, both coefficients are "
    "positive. Flat maps are similar to all others: with the entropy of a prompt's maps taken out, the trajectory "
    "coefficient is positive as well"
)


class Figure8(SimilarityScatter):
    """Hit rate over semantic and trajectory similarity, for the first set of prompts."""

    key = "8"
    title = "Hit rate over similarity score, first set of prompts"

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        return similarity_table(study, study.of_first_prompts())

    @override
    def claims(self) -> Sequence[Claim]:
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
