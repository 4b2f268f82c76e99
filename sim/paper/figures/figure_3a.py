"""Figure 3a: heat maps of a request's experts, coarse and fine."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import override

from common.figures import figure
from sim.paper.analyses.routing_entropy import heat_maps
from sim.paper.analyses.sampled_prompts import PROMPTS, SEED
from sim.paper.claims.claim import NOT_REPRODUCED, Claim, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study

_SHOWN = {
    "executed_share": "executed\n(released code)",
    "probability": "router's\nprobabilities",
}
HOT = 0.9  # the hot experts of a layer together have this share of its probability
FEW = 0.5  # an iteration has at most this share of the request's number of hot experts

_SPREAD = (
    "A single token's probabilities have a long tail (lower row of the picture; entropy in table 3b): it takes many of "
    "a layer's experts to reach 90 % of the probability, although only K are executed"
)
_COUNTED = "an iteration executes exactly K of the J experts of a layer, and a request nearly all of them"


class Figure3a(PaperFigure):
    """A request's mean map beside the maps of single iterations."""

    key = "3a"
    title = "Heat maps of the experts of one request, coarse (whole request) and fine (one iteration)"
    settings = (
        "One request of the first model, drawn with a fixed seed, with its first, middle and last decode step. Each "
        "map has its own scale, as in the released code, which counts executed experts. The paper's text describes "
        "probabilities."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per model, map, layer and expert."""
        settings = {"prompts": PROMPTS, "seed": SEED}
        return study.analysed("heat_maps", heat_maps, settings, study.of_first_prompts())

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        model = table["model"].iloc[0]
        shown = table[table["model"] == model]
        iterations = [None, *sorted(shown["iteration"].dropna().unique())]
        drawn = figure(7, 3.6)
        grid = drawn.subplots(len(_SHOWN), len(iterations), squeeze=False, sharex=True, sharey=True)
        for row, (column, label) in zip(grid, _SHOWN.items(), strict=True):
            for panel, iteration in zip(row, iterations, strict=True):
                values = _matrix(shown, iteration, column).T
                panel.imshow(values, aspect="auto", cmap="Reds", vmin=0, vmax=values.max(), interpolation="nearest")
                panel.tick_params(labelsize=7)
            row[0].set_ylabel(f"expert\n{label}", fontsize=8)
        for panel, iteration in zip(grid[0], iterations, strict=True):
            name = "coarse: all iterations" if iteration is None else f"fine: iteration {iteration}"
            panel.set_title(name, fontsize=8)
        for panel in grid[-1]:
            panel.set_xlabel("layer", fontsize=8)
        drawn.suptitle(f"{shown['model'].iloc[0]}, {shown['prompts'].iloc[0]}", fontsize=9)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key=key,
                figure="3a",
                says="One iteration concentrates on few experts of a layer, a whole request spreads over many (here: "
                f"in each shown iteration, at most half as many experts have {HOT * 100:.0f} % of a layer's {of} as in "
                "the whole request, mean over layers)",
                rule="order",
                ours=partial(_concentrated, column=column),
                reasons={NOT_REPRODUCED: _SPREAD} if column == "probability" else {},
                given=_COUNTED if column == "executed_share" else "",
            )
            for key, column, of in (
                ("3a-heat-maps", "executed_share", "executions, counted as in the released code,"),
                ("3a-heat-maps-gates", "probability", "gate probability"),
            )
        ]


def _matrix(table: pd.DataFrame, iteration: int | None, column: str) -> Any:
    """`[L, J]` of one map."""
    which = table["iteration"].isna() if iteration is None else table["iteration"] == iteration
    rows = table[which.fillna(False)]
    return rows.pivot(index="layer", columns="expert", values=column).to_numpy(float)


def hot_experts(probabilities: Any) -> float:
    """How many experts it takes to reach the share `HOT` of a layer's sum, averaged over the layers of `[L, J]`."""
    most_first = -np.sort(-probabilities, axis=1)
    reached = most_first.cumsum(axis=1) < HOT * probabilities.sum(axis=1, keepdims=True)
    return float((reached.sum(axis=1) + 1).mean())


def _concentrated(tables: Tables, *, column: str) -> pd.DataFrame:
    def concentrates(rows: pd.DataFrame) -> tuple[float, str]:
        coarse = hot_experts(_matrix(rows, None, column))
        fine = [hot_experts(_matrix(rows, each, column)) for each in rows["iteration"].dropna().unique()]
        if not fine:
            return math.nan, ""
        detail = f"hot experts: {coarse:.1f} coarse, {min(fine):.1f} to {max(fine):.1f} fine"
        return float(max(fine) <= FEW * coarse), detail

    return each_trace(tables["3a"], concentrates)
