"""The theory of paper §4.4, tested on recorded maps: how many stored expert maps guarantee which similarity."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels, shades
from sim.paper.analyses.sampled_prompts import SEED
from sim.paper.analyses.stored_maps import RANDOM_SAMPLE, REPLACEMENT, nearest_of_stored
from sim.paper.claims.claim import NOT_REPRODUCED, Claim, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study

TESTED = 400  # decode steps
FORMULAS = {0.75: "2LJ", 0.98: "½·LJ·ln(LJ)"}
_LINES = {"similarity_mean": ("mean", "-"), "similarity_p05": ("5th percentile", "--")}

_REASONS = {
    0.75: "The mean is above 75 % on every trace, but some maps find no stored map that similar. The paper's "
    "replacement (eq. 9) changes little: the detail gives its share",
    0.98: "With that many maps, the nearest one is less than 98 % similar on average (see the detail), and its "
    "similarity grows little with each doubling (table of this figure)",
}


class TheoryOfCoverage(PaperFigure):
    """Similarity of the nearest stored map over the number of stored maps, beside the promised similarity."""

    key = "theory"
    title = "§4.4: similarity that a number of stored expert maps guarantees"
    settings = (
        f"Cosine between the whole expert maps of {TESTED} decode steps of test requests and the nearest map in a "
        "random sample of the history. Dots: a store of 2LJ maps after 4LJ maps were added with the paper's "
        "replacement (eq. 9). The paper gives no data here; crosses are its formulas."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per trace and number of stored maps."""
        return study.analysed("coverage", nearest_of_stored, {"tested": TESTED, "train_split": 0.7, "seed": SEED})

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        """A panel per model; colours are sets of prompts."""
        models, sets = list(table["model"].unique()), list(table["prompts"].unique())
        drawn = figure(7, 2.8)
        grid = panels(drawn, 1, len(models), sharey=True)
        for panel, model in zip(grid[0], models, strict=True):
            for prompts, colour in zip(sets, shades(len(sets)), strict=True):
                some = table[(table["model"] == model) & (table["prompts"] == prompts)].drop_duplicates(
                    ["store", "maps"]
                )
                kept, some = some[some["store"] == REPLACEMENT], some[some["store"] == RANDOM_SAMPLE]
                for column, (_, stroke) in _LINES.items():
                    panel.plot(some["maps"], some[column], stroke, color=colour, linewidth=1.2)
                    panel.plot(kept["maps"], kept[column], "o", color=colour, markersize=3)
            promised = table[(table["model"] == model) & table["theory"].notna()].drop_duplicates("theory")
            panel.plot(promised["asked_maps"], promised["theory"], "x", color="black", markersize=6)
            for row in promised.itertuples():
                panel.axvline(row.asked_maps, color=GREY, linewidth=0.5)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set(ylim=(0, 1.02))
            panel.set_title(model, fontsize=9)
            panel.set_xlabel("stored maps", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.25)
        grid[0, 0].set_ylabel("similarity of the nearest", fontsize=8)
        first = grid[0, 0]
        for prompts, colour in zip(sets, shades(len(sets)), strict=True):
            first.plot([], [], color=colour, label=prompts)
        for name, stroke in _LINES.values():
            first.plot([], [], stroke, color=GREY, label=name)
        first.plot([], [], "x", color="black", label="promised")
        legend_above(drawn, *first.get_legend_handles_labels(), columns=6)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key=f"theory-{promised * 100:.0f}",
                figure="theory",
                says=f"{FORMULAS[promised]} stored maps guarantee a similarity of at least {promised * 100:.0f} % "
                "(here: every tested map finds one at least that similar, a share of 1)",
                rule="bound",
                low=1.0,
                unit="share",
                ours=partial(_all_kept, promised=promised),
                reasons={NOT_REPRODUCED: _REASONS[promised]},
            )
            for promised in FORMULAS
        ]


def _all_kept(tables: Tables, *, promised: float) -> pd.DataFrame:
    return each_trace(tables["theory"], lambda rows: _kept(rows, promised))


def _kept(table: pd.DataFrame, promised: float) -> tuple[float, str]:
    """The share of maps for which the promise holds; NaN if the history has fewer maps than the promise needs."""
    rows = table[np.isclose(table["theory"], promised)]
    row = rows[rows["store"] == RANDOM_SAMPLE].iloc[0]
    asked = f"{row['asked_maps']:.0f} maps"
    if row["maps"] < row["asked_maps"]:
        return math.nan, f"needs {asked}, but the history has {row['maps']:.0f}"
    column = f"share_at_least_{promised:g}"
    replaced = [f"by eq. 9 a share of {share:.3f}" for share in rows.loc[rows["store"] == REPLACEMENT, column]]
    spread = f"similarity {row['similarity_mean']:.2f} on average, 5th percentile {row['similarity_p05']:.2f}"
    return float(row[column]), "; ".join([f"{asked}: {spread}", *replaced])
