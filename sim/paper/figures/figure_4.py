"""Figure 4: hit rate over prefetch distance, coarse against fine."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels
from sim.paper.analyses.recall_by_distance import COARSE, FINE, recall_by_distance
from sim.paper.analyses.sampled_prompts import SEED
from sim.paper.claims.claim import Claim
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.system_colours import colour_of

FARTHEST = 30  # layers, in the paper
REQUESTS = 16
THIN = (1, 8, 16, 24)
SLOWLY = 0.01  # largest loss per layer of distance
LONGEST_FALL = 16  # layers of distance over which it is measured; few layers are left beyond


class Figure4(PaperFigure):
    """Recall of coarse and fine prediction over the distance, a panel per model."""

    key = "4"
    title = "Hit rate over prefetch distance, coarse against fine"
    settings = (
        "Without cache or time: the share of the experts executed in decode steps that are among the K predicted d "
        f"layers before; up to {REQUESTS} test requests, and 70 % of the trace as history. Fine: map-t, a trajectory "
        "search at every layer. Coarse: moe-infinity, the nearest past request's counts. Each d uses the layers with "
        "at least d layers before them, so few are left at the right. The paper's axis goes from 0 to 30: at d = 0 "
        "nothing is predicted, and d cannot exceed the last layer."
    )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per model, grain and distance."""
        settings = {
            "requests": min(REQUESTS, study.tier.test_requests),
            "distances": list(THIN if study.tier.thin else range(1, FARTHEST + 1)),
            "seed": SEED,
        }
        return study.analysed("recall_by_distance", recall_by_distance, settings, study.of_first_prompts())

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        models = list(table["model"].unique())
        drawn = figure(7, 2.7)
        grid = panels(drawn, 1, len(models), sharey=True)
        for panel, model in zip(grid[0], models, strict=True):
            some = table[table["model"] == model]
            for grain, colour in ((COARSE, colour_of("moe-infinity")), (FINE, colour_of("finemoe"))):
                line = some[some["grain"] == grain]
                panel.plot(
                    line["distance_layers"], line["hit_rate"] * 100, "o-", color=colour, markersize=2.5, label=grain
                )
            panel.axhline(some["random_hit_rate"].iloc[0] * 100, color=GREY, linestyle=":", label="K experts at random")
            end = int(some["last_distance_layers"].iloc[0])
            if end < FARTHEST:
                panel.axvspan(end + 0.5, FARTHEST + 1, color=GREY, alpha=0.15, linewidth=0)
                panel.text(
                    (end + FARTHEST + 1.5) / 2, 50, "no such layer", rotation=90, ha="center", va="center", fontsize=7
                )
            panel.axvspan(-2.2, 0.5, color=GREY, alpha=0.15, linewidth=0)
            panel.text(-0.85, 50, "undefined", rotation=90, ha="center", va="center", fontsize=7)
            panel.set(xlim=(-2.2, FARTHEST + 1), ylim=(0, 100))
            panel.set_title(f"{model}, {some['prompts'].iloc[0]}", fontsize=9)
            panel.set_xlabel("prefetch distance d [layers]", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.25)
        grid[0, 0].set_ylabel("hit rate [%]", fontsize=8)
        legend_above(drawn, *grid[0, 0].get_legend_handles_labels(), columns=3)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="4-hit-coarse",
                figure="4",
                says="Fine-grained patterns predict better than coarse-grained ones at every prefetch distance",
                rule="order",
                ours=lambda tables: each_trace(tables["4"], _above),
            ),
            Claim(
                key="4-hit-distance",
                figure="4",
                says="Fine-grained hit rates fall slowly with the distance (here: by 0 to 1 percentage point per layer "
                f"of distance, from 1 to at most {LONGEST_FALL}, on the same layers)",
                rule="range",
                low=0.0,
                high=SLOWLY,
                unit="share",
                ours=lambda tables: each_trace(tables["4"], _fall),
            ),
        ]


def _above(table: pd.DataFrame) -> tuple[float, str]:
    wide = table.pivot(index="distance_layers", columns="grain", values="hit_rate")
    gap = (wide[FINE] - wide[COARSE]).dropna()
    if gap.empty:
        return math.nan, ""
    return float((gap > 0).all()), f"{gap.min() * 100:+.1f} points at d = {gap.idxmin()} at least".replace("-", "−")


def _fall(table: pd.DataFrame) -> tuple[float, str]:
    """Per layer of distance; NaN without two distances."""
    fine = table[(table["grain"] == FINE) & (table["distance_layers"] <= LONGEST_FALL)]
    fine = fine[fine["distance_layers"] > 1]
    if fine.empty:
        return math.nan, ""
    far = fine.sort_values("distance_layers").iloc[-1]
    distance = int(far["distance_layers"])
    lost = float(far["hit_rate_from_1"] - far["hit_rate"])
    return lost / (distance - 1), f"{lost * 100:.1f} points from d = 1 to {distance}"
