"""Figure 9: hit rate over similarity, second set of prompts; and the coefficients of both sets."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
from typing_extensions import override

from sim.paper.analyses.prompt_pairs import MAIN, SEARCHED, SEMANTIC, TRAJECTORY
from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim, Reasons, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.similarity_scatter import (
    HIGHEST,
    LOWEST,
    SimilarityScatter,
    coefficient,
    similarity_table,
)
from sim.paper.study import Study

_READING = (
    "It depends on the reading: the claim below reads it as a search. In this reading, Qwen on text lies above the "
    "range and Phi on chat far below. Flat maps are similar to all others: with the entropy of a prompt's maps taken "
    "out, a reading in table 8, Phi's coefficient is positive"
)
_FAR_PAIRS = (
    "In no reading of tables 8 and 9 is it in the range, on any trace (see the detail). The embedding of a decode step "
    "depends on its token alone: among pairs of unequal tokens, another reading there, the coefficient is far below "
    "the range"
)
_REASONS: Mapping[tuple[str, tuple[str, str]], Reasons] = {
    (SEMANTIC, MAIN): {NOT_REPRODUCED: _FAR_PAIRS},
    (SEMANTIC, SEARCHED): {NOT_REPRODUCED: _FAR_PAIRS},
    (TRAJECTORY, MAIN): dict.fromkeys((NOT_REPRODUCED, SAME_ORDER), _READING),
}


class Figure9(SimilarityScatter):
    """Hit rate over semantic and trajectory similarity, for the second set of prompts."""

    key = "9"
    title = "Hit rate over similarity score, second set of prompts"

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        return similarity_table(study, study.of_other_prompts())

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key=f"9-pearson-{kind}{suffix}",
                figure="9",
                says=f"Pearson's coefficient of {kind} similarity and hit rate lies between {LOWEST} and {HIGHEST} "
                f"for every model and both sets of prompts (here: {of})",
                rule="range",
                low=LOWEST,
                high=HIGHEST,
                ours=partial(_coefficients, kind=kind, reading=reading),
                needs=("8", "9"),
                reasons=_REASONS.get((kind, reading), {}),
            )
            for kind in (SEMANTIC, TRAJECTORY)
            for suffix, reading, of in (
                ("", MAIN, "a prompt with all others, all pairs of decode steps"),
                ("-search", SEARCHED, "each decode step with the most similar of all other prompts, mean per prompt"),
            )
        ]


def _coefficients(tables: Tables, *, kind: str, reading: tuple[str, str]) -> pd.DataFrame:
    if tables["9"].empty:
        return each_trace(tables["8"], lambda _: (math.nan, "no second set of prompts was given"))
    both = pd.concat([tables["8"], tables["9"]], ignore_index=True)
    return each_trace(both, lambda rows: coefficient(rows, kind, reading))
