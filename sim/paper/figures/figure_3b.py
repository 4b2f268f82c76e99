"""Figure 3b: mean entropy per layer, coarse and fine."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels
from sim.paper.analyses.routing_entropy import layer_entropies
from sim.paper.analyses.sampled_prompts import PROMPTS, SEED
from sim.paper.claims.claim import NOT_REPRODUCED, Claim, Tables
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.system_colours import colour_of

FAR = 0.5  # far below: at most this share
_COARSE, _FINE = colour_of("moe-infinity"), colour_of("finemoe")  # the systems with these grains, as in figure 4
_BARS = (
    ("executed", "coarse", _COARSE, "", "coarse, executed experts"),
    ("executed", "fine", _FINE, "", "fine, executed experts (ln K)"),
    ("gates", "coarse", _COARSE, "////", "coarse, gate probabilities"),
    ("gates", "fine", _FINE, "////", "fine, gate probabilities"),
)
_WIDTH = 0.2

_SPREAD = (
    "Fine lies below coarse everywhere, but a single token's probabilities are spread out too (table 3b). The gap in "
    "the released code compares other quantities: K executed experts always have ln K nats, whatever the router's "
    "probabilities"
)


_COUNTED = (
    "a fine entry is the K experts of one token, so ln K nats, and a coarse one approaches ln J when all J experts are "
    "in use: with an even load, the ratio is ln K / ln J, which is 0.33, 0.34 and 0.25 for Mixtral, Qwen and Phi"
)


class Figure3b(PaperFigure):
    """Coarse and fine entropy in both readings, a group of bars per model."""

    key = "3b"
    title = "Mean entropy per layer, coarse and fine"
    settings = (
        f"Up to {PROMPTS} requests per trace; nats; mean over layers. Plain bars: executed experts, counted as in the "
        "released code, where a fine entry is one token and so ln K by construction. Hatched: the router's "
        "probabilities, which the paper's text describes."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per trace, reading, grain and layer."""
        return study.analysed("layer_entropies", layer_entropies, {"prompts": PROMPTS, "seed": SEED})

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        sets = list(table["prompts"].unique())
        drawn = figure(7, 2.9)
        grid = panels(drawn, 1, len(sets), sharey=True)
        for panel, prompts in zip(grid[0], sets, strict=True):
            some = table[table["prompts"] == prompts]
            models = list(some["model"].unique())
            for place, (reading, grain, colour, hatch, label) in enumerate(_BARS):
                bars = some[(some["reading"] == reading) & (some["grain"] == grain)]
                heights = bars.groupby("model", sort=False)["entropy_nats"].mean().reindex(models)
                where = np.arange(len(models)) + (place - 1.5) * _WIDTH
                alpha = 0.55 if hatch else 1
                panel.bar(
                    where, heights, _WIDTH, color=colour, hatch=hatch, edgecolor="white", alpha=alpha, label=label
                )
            uniform = some.groupby("model", sort=False)["uniform_nats"].first().reindex(models)
            for place, height in enumerate(uniform):
                label = "" if place else "all experts alike"
                ends = place - 0.42, place + 0.42
                panel.plot(ends, (height, height), ":", color=GREY, linewidth=1.2, label=label or None)
            panel.set_xticks(range(len(models)), models, fontsize=8)
            panel.set_title(prompts, fontsize=9)
            panel.tick_params(labelsize=7)
        grid[0, 0].set_ylabel("mean entropy [nats]", fontsize=8)
        legend_above(drawn, *grid[0, 0].get_legend_handles_labels(), columns=3)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key=key,
                figure="3b",
                says=f"Fine entropy is far below coarse entropy (here: at most half of it; {of})",
                rule="bound",
                high=FAR,
                unit="share",
                ours=partial(_shares, reading=reading),
                reasons={NOT_REPRODUCED: _SPREAD} if reading == "gates" else {},
                given=_COUNTED if reading == "executed" else "",
            )
            for key, reading, of in (
                ("3b-entropy-coarse", "executed", "executed experts, counted as in the released code"),
                ("3b-entropy-coarse-gates", "gates", "gate probabilities, as the text defines expert maps"),
            )
        ]


def _shares(tables: Tables, *, reading: str) -> pd.DataFrame:
    def share(rows: pd.DataFrame) -> tuple[float, str]:
        some = rows[rows["reading"] == reading].groupby("grain")["entropy_nats"].mean()
        fine, coarse = some["fine"], some["coarse"]
        return (float(fine / coarse), f"{fine:.2f} of {coarse:.2f} nats") if coarse else (math.nan, "")

    return each_trace(tables["3b"], share)
