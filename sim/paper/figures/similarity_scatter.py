"""What figures 8 and 9 share: hit rate over similarity, one set of prompts each."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, shades
from sim.paper.analyses.prompt_pairs import MAIN, SEMANTIC, TRAJECTORY, similar_prompts
from sim.paper.analyses.sampled_prompts import PROMPTS, SEED
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace

STEPS = 16
LOWEST, HIGHEST = 0.84, 0.97  # of the paper's coefficients
_COLOURS = dict(zip((TRAJECTORY, SEMANTIC), shades(2), strict=True))


class SimilarityScatter(PaperFigure):
    """Hit rate over similarity: a column per model, with points and the coefficients of all readings."""

    settings = (
        f"Up to {PROMPTS} prompts of each trace. A point is a prompt: the mean over all other prompts and all pairs of "
        "decode steps. The paper does not say which parts of two prompts are compared. The lowest row shows the "
        "coefficients of all readings (defined in sim/paper/analyses/prompt_pairs.py); grey is the paper's range."
    )

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        models = list(table["model"].unique())
        kinds = [kind for kind in (SEMANTIC, TRAJECTORY) if kind in set(table["similarity"])]
        drawn = figure(7, 1.7 * len(kinds) + 3.6 if models else 1)
        if not models:
            drawn.suptitle("no second set of prompts was given", fontsize=9)
            return drawn
        rows = len(kinds) + 1
        grid = drawn.subplots(rows, len(models), squeeze=False, height_ratios=[1.0] * len(kinds) + [1.9])
        for column, model in enumerate(models):
            some = table[table["model"] == model]
            for panel, kind in zip(grid[:-1, column], kinds, strict=True):
                _draw_points(panel, some[some["similarity"] == kind], kind)
            grid[0, column].set_title(f"{model}, {some['prompts'].iloc[0]}", fontsize=9)
            _draw_coefficients(grid[-1, column], some[some["row"] == "coefficient"], kinds, named=column == 0)
        for axis in grid.flat:
            axis.spines[["top", "right"]].set_visible(False)
        for panel in grid[:-1, 0]:
            panel.set_ylabel("hit rate [%]", fontsize=8)
        return drawn


def similarity_table(study: Study, traces: Sequence[PaperTrace]) -> pd.DataFrame:
    """A row per trace, reading and similarity; for the main reading also a row per prompt."""
    if not traces:
        return pd.DataFrame(columns=["model", "prompts", "similarity", "row", "score", "hit_rate", "pearson"])
    return study.analysed(
        "similar_prompts", similar_prompts, {"prompts": PROMPTS, "seed": SEED, "steps": STEPS}, traces
    )


def _draw_points(panel: Any, table: pd.DataFrame, kind: str) -> None:
    points = table[table["row"] == "point"]
    panel.scatter(points["score"], points["hit_rate"] * 100, s=8, color=_COLOURS[kind], linewidths=0, alpha=0.8)
    found, _ = coefficient(table, kind)
    r_text = "r is undefined" if math.isnan(found) else f"r = {found:.2f}".replace("-", "−")
    panel.set_xlabel(f"{kind} similarity; {r_text}", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.locator_params(nbins=4)


def _draw_coefficients(panel: Any, table: pd.DataFrame, kinds: Sequence[str], *, named: bool) -> None:
    """A line per reading, the main one first."""
    readings = list(dict.fromkeys(zip(table["compared"], table["data_point"], strict=True)))
    places = {reading: -place for place, reading in enumerate(sorted(readings, key=lambda each: each != MAIN))}
    panel.axvspan(LOWEST, HIGHEST, color=GREY, alpha=0.25, linewidth=0)
    for kind in kinds:
        some = table[table["similarity"] == kind]
        heights = [places[reading] for reading in zip(some["compared"], some["data_point"], strict=True)]
        panel.plot(some["pearson"], heights, "o", color=_COLOURS[kind], markersize=3.5, label=kind)
    several = Counter(compared for compared, _ in places)
    names = [f"{compared}: {point}" if several[compared] > 1 else compared for compared, point in places]
    panel.set_yticks(list(places.values()), names if named else [""] * len(places), fontsize=6)
    panel.set_xlim(-1.05, 1.05)
    panel.set_xlabel("Pearson's coefficient", fontsize=8)
    panel.tick_params(axis="x", labelsize=7)
    panel.grid(alpha=0.25)
    if named:
        panel.legend(frameon=False, fontsize=7, loc="lower left")


def coefficient(table: pd.DataFrame, kind: str, reading: tuple[str, str] = MAIN) -> tuple[float, str]:
    """Pearson's coefficient in one reading, and as detail the number of readings within the paper's range.

    NaN if the trace has no such similarity, or if nothing varies.
    """
    some = table[(table["similarity"] == kind) & (table["row"] == "coefficient")]
    found = some.loc[(some["compared"] == reading[0]) & (some["data_point"] == reading[1]), "pearson"]
    every = some["pearson"].dropna()
    if every.empty:
        return math.nan, ""
    inside = int(every.between(LOWEST, HIGHEST).sum())
    spread = f"{every.min():.2f} to {every.max():.2f}".replace("-", "−")
    return float(found.iloc[0]), f"all readings: {spread}, {inside} of {len(every)} in the range"
