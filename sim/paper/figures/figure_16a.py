"""Figure 16a: search score over the capacity of the expert-map store."""

import math
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels
from common.tables import percent
from sim.inputs import train_test_split
from sim.paper.case import Case
from sim.paper.claims.claim import Claim
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.run_columns import labelled, summary_column, times_ms
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace
from sim.system_colours import colour_of

CAPACITIES = (500, 750, 1000, 1250, 1500)
THIN_CAPACITIES = (500, 1000, 1500)
FIRST, KNEE, LAST = 500, 1000, 1500
STRONG = 0.01
"""The smallest rise of the score from the first capacity to the knee that counts as strong."""
FLAT = 0.5
"""A rise from the knee to the last capacity counts as flat if it is below this share of the rise before the knee."""
LABELS = ["model", "prompts", "cache_gb", "capacity"]
SCORES = {"score_trajectory": "trajectory", "score_semantic": "semantic"}
_TITLES = 75  # characters that fit into all titles of a row together
_STYLES = ("-", "--", ":", "-.")  # of sets of prompts


class Figure16a(PaperFigure):
    """Mean scores of FineMoE's searches at each capacity."""

    key = "16a"
    title = "Mean search score over the capacity of the store"
    settings = (
        "FineMoE at the paper's best distance of the model; cosine similarity of the maps and embeddings found, mean "
        "over all searches of the tested requests. Scores depend on neither cache nor footing. The store starts with a "
        "random sample of the history and keeps learning."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        capacities = THIN_CAPACITIES if study.tier.thin else CAPACITIES
        return [
            study.case(trace, _policy(trace, capacity), capacity=capacity)
            for trace in study.traces
            for capacity in capacities
        ]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Scores by capacity, and times in ms on even footing; `history_maps` counts maps that can fill the store."""
        table = labelled(runs, LABELS)
        maps = {(trace.model, trace.prompts): _history_maps(study, trace) for trace in study.traces}
        table["history_maps"] = [maps[place] for place in zip(runs["model"], runs["prompts"], strict=True)]
        for score, search in SCORES.items():
            table[score] = summary_column(runs, f"search_score_{search}_mean")
        table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
        return table

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        models = list(dict.fromkeys(table["model"]))
        drawn = figure(7, 3.8)
        grid = panels(drawn, len(SCORES), len(models), sharex=True, sharey="row")
        for row, (column, search) in zip(grid, SCORES.items(), strict=True):
            for panel, model in zip(row, models, strict=True):
                _draw(panel, table[table["model"] == model], column)
            row[0].set_ylabel(f"mean score of\n{search} searches", fontsize=8)
        for panel, model in zip(grid[0], models, strict=True):
            lines = [model, *_short_of_maps(table[table["model"] == model])]
            panel.set_title("\n".join(fill(line, _TITLES // len(models)) for line in lines), fontsize=9)
        for panel in grid[-1]:
            panel.set_xlabel("capacity of the store [maps]", fontsize=8)
        legend_above(drawn, *grid[0, 0].get_legend_handles_labels(), columns=4)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="16a-score-rise",
                figure="16a",
                says=f"The mean search score rises strongly below 1 K maps (here: by {STRONG} or more from {FIRST} to "
                f"{KNEE}, for both searches)",
                rule="order",
                ours=lambda tables: each_trace(tables["16a"], rises),
            ),
            Claim(
                key="16a-score-flat",
                figure="16a",
                says=f"The score is flat beyond 1 K (here: from {KNEE} to {LAST} it rises by less than "
                f"{percent(FLAT, signed=False)} of its rise from {FIRST} to {KNEE}, for both searches; a logarithmic "
                "curve, which has no knee, would rise by 58 %)",
                rule="order",
                ours=lambda tables: each_trace(tables["16a"], flattens),
            ),
        ]


def rises(rows: pd.DataFrame) -> tuple[float, str]:
    """1 if both scores rise strongly before the knee."""
    return _judged(rows, lambda before, after: before >= STRONG)


def flattens(rows: pd.DataFrame) -> tuple[float, str]:
    """1 if both scores rise much less after the knee than before it."""
    return _judged(rows, lambda before, after: after < FLAT * before)


def _judged(rows: pd.DataFrame, holds: Callable[[float, float], bool]) -> tuple[float, str]:
    """NaN if a run is missing, or if the history has too few maps to fill the largest store."""
    scores = rows.set_index("capacity")[list(SCORES)].dropna(axis=1, how="all")
    filled = rows["history_maps"].min() >= LAST
    if not {FIRST, KNEE, LAST} <= set(scores.index) or scores.empty:
        return math.nan, ""
    steps = {
        SCORES[column]: (scores[column][KNEE] - scores[column][FIRST], scores[column][LAST] - scores[column][KNEE])
        for column in scores.columns
    }
    if not filled:
        return math.nan, f"the history has {rows['history_maps'].min()} maps, too few to fill the store"
    text = ", ".join(f"{search} {before:+.4f}, then {after:+.4f}" for search, (before, after) in steps.items())
    return float(all(holds(*step) for step in steps.values())), text


def _policy(trace: PaperTrace, capacity: int) -> str:
    """Omit the default capacity, so that figures share the run."""
    setting = "" if capacity == KNEE else f",capacity={capacity}"
    return f"finemoe,prefetch_distance={trace.best_distance}{setting}"


def _history_maps(study: Study, trace: PaperTrace) -> int:
    """The number of maps that FineMoE can learn from: one per token of the history."""
    opened = study.opened(trace)
    history, _ = train_test_split(opened.request_ids, study.case(trace, "finemoe").scenario, where=trace.title)
    return sum(opened.rows_of(request) for request in history)


def _short_of_maps(rows: pd.DataFrame) -> list[str]:
    """A line for the title if the history cannot fill every store; if it fills none, all stores hold the same maps."""
    maps = rows["history_maps"].min()
    if maps >= rows["capacity"].max():
        return []
    flat = ", which fit at any capacity" if maps < rows["capacity"].min() else ""
    return [f"(history: {maps} maps{flat})"]


def _draw(panel: Any, rows: pd.DataFrame, column: str) -> None:
    for style, (prompts, of_prompts) in zip(_STYLES, rows.groupby("prompts", sort=False), strict=False):
        panel.plot(
            of_prompts["capacity"],
            of_prompts[column],
            color=colour_of("finemoe"),
            linestyle=style,
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=prompts,
        )
    panel.axvline(KNEE, color=GREY, linewidth=0.8, zorder=0)
    panel.set_xticks(sorted(set(rows["capacity"])))
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
