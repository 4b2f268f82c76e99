"""Figure 15: FineMoE's TTFT and TPOT over the prefetch distance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import GREY, figure, legend_above, panels
from common.tables import percent
from sim.paper.case import Case
from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim, Reasons
from sim.paper.claims.claim_values import each_trace
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.run_columns import counted_hit_rates, labelled, summary_column, times_ms
from sim.paper.footings import EVEN, FOOTINGS, RELEASED
from sim.paper.study import Study
from sim.paper.study_traces import MODELS
from sim.system_colours import colour_of

DISTANCES = range(1, 9)
LABELS = ["model", "prompts", "footing", "cache_gb", "prefetch_distance"]
METRICS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
ENDS = 0.01
"""Both ends of a U lie above its minimum by at least this share of it."""
_STYLES = ("-", "--", ":", "-.")  # of sets of prompts
BEST: Mapping[str, int] = dict(MODELS.values())

FLAT_TTFT = (
    "TTFT is not U-shaped: on Mixtral and Phi it hardly depends on the distance, and even the TTFT of Clairvoyant, "
    "which knows every demand, is little lower (figure 10's table); on Qwen it falls up to the largest distance"
)
FALLING_TTFT = (
    "TTFT falls up to the largest distance and shifts the minimum of the sum; TPOT alone has its minimum at a smaller "
    "distance than the paper's (see the detail)"
)
RISING_TTFT = (
    "TTFT rises from 2 layers on and shifts the minimum of the sum; TPOT alone has its minimum at a larger distance "
    "(see the detail). FineMoE's own eviction rule contributes: with LRU instead, TTFT is lower at the paper's "
    "distance (figure 14b's table)"
)
FLAT_MINIMUM = "Both are flat around their minima: the detail shows the cost of the paper's distance"
_MINIMA: Mapping[str, Reasons] = {
    "Mixtral": {(RELEASED.name, SAME_ORDER): RISING_TTFT},
    "Qwen": {(EVEN.name, SAME_ORDER): FALLING_TTFT, (RELEASED.name, SAME_ORDER): FLAT_MINIMUM},
    "Phi": {(EVEN.name, SAME_ORDER): FLAT_MINIMUM, (RELEASED.name, SAME_ORDER): RISING_TTFT},
}


class Figure15(PaperFigure):
    """TTFT and TPOT of FineMoE, distance by distance."""

    key = "15"
    title = "TTFT and TPOT over the prefetch distance"
    settings = (
        "FineMoE with each distance from 1 to 8 layers; cache 12 GB (not stated in the paper). Circles are our minima, "
        "the grey line is the paper's."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        return [
            study.case(
                trace,
                f"finemoe,prefetch_distance={distance}",
                footing=footing,
                prefetch_distance=distance,
            )
            for trace in study.traces
            for footing in FOOTINGS
            for distance in DISTANCES
            if not study.tier.thin or distance in (DISTANCES[0], trace.best_distance, DISTANCES[-1])
        ]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Times in ms, and hit rates, by distance."""
        table = labelled(runs, LABELS)
        table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
        table["counted_hit_rate"] = counted_hit_rates(runs)
        table["hit_rate"] = summary_column(runs, "hit_rate")
        table["late_rate"] = summary_column(runs, "late_rate")
        return table

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        models = list(dict.fromkeys(table["model"]))
        drawn = figure(7, 4)
        grid = panels(drawn, len(METRICS), len(models), sharex=True)
        for row, (column, metric) in zip(grid, METRICS.items(), strict=True):
            for panel, model in zip(row, models, strict=True):
                _draw(panel, table[table["model"] == model], column)
                if model in BEST:
                    panel.axvline(BEST[model], color=GREY, linewidth=0.8, zorder=0)
            row[0].set_ylabel(f"{metric} [ms]", fontsize=8)
        for panel, model in zip(grid[0], models, strict=True):
            panel.set_title(model, fontsize=9)
        for panel in grid[-1]:
            panel.set_xlabel("prefetch distance [layers]", fontsize=8)
            panel.set_xticks(DISTANCES)
        handles = {line.get_label(): line for panel in grid.flat for line in panel.get_lines()}
        shown = {label: line for label, line in handles.items() if not str(label).startswith("_")}
        legend_above(drawn, shown.values(), shown.keys(), columns=4)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="15-u-shape",
                figure="15",
                says="TTFT and TPOT are U-shaped over the distance (here: the minimum of each is at neither end, and "
                f"both ends lie at least {percent(ENDS, signed=False)} above it)",
                rule="order",
                ours=lambda tables: each_trace(_done(tables["15"]), u_shaped),
                reasons={(EVEN.name, NOT_REPRODUCED): FLAT_TTFT},
            ),
            *(_minimum(model, best) for model, best in BEST.items()),
        ]


def _minimum(model: str, best: int) -> Claim:
    return Claim(
        key=f"15-minimum-{model.lower()}",
        figure="15",
        says=f"The best distance for {model} is {best} layers (here: where TTFT and TPOT, each divided by its minimum, "
        "have the smallest sum)",
        rule="number",
        paper=best,
        unit="layers",
        ours=lambda tables: each_trace(_done(tables["15"], model), lambda rows: best_distance(rows, best)),
        reasons=_MINIMA.get(model, {}),
    )


def u_shaped(rows: pd.DataFrame) -> tuple[float, str]:
    """1 if both metrics are U-shaped over the distance; NaN with fewer than three distances."""
    by_distance = _by_distance(rows)
    if len(by_distance) < 3:
        return math.nan, ""
    shapes = [_shape(by_distance[column], metric) for column, metric in METRICS.items()]
    return float(all(is_u for is_u, _ in shapes)), ", ".join(text for _, text in shapes)


def best_distance(rows: pd.DataFrame, paper: int) -> tuple[float, str]:
    """The distance with the smallest sum of both metrics, each divided by its minimum; NaN with fewer than three.

    The detail has the cost of the paper's distance.
    """
    by_distance = _by_distance(rows)
    if len(by_distance) < 3:
        return math.nan, ""
    over = by_distance / by_distance.min()
    text = ", ".join(f"{metric} alone: {by_distance[column].idxmin():g}" for column, metric in METRICS.items())
    if paper in over.index:
        costs = ", ".join(f"{metric} {percent(over[column][paper] - 1, 1)}" for column, metric in METRICS.items())
        text += f"; at the paper's {paper}: {costs} over the minimum"
    return float(over.index[int(over.sum(axis=1).argmin())]), text


def _shape(values: "pd.Series[float]", metric: str) -> tuple[bool, str]:
    ends = values.iloc[[0, -1]] / values.min() - 1
    is_u = bool((ends >= ENDS).all())
    first, last = (f"{percent(end, 1)} at {distance:g}" for distance, end in ends.items())
    return is_u, f"{metric} is {'a U' if is_u else 'none'}: {first}, {last}"


def _by_distance(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.set_index("prefetch_distance")[list(METRICS)].dropna().sort_index()


def _done(table: pd.DataFrame, model: str | None = None) -> pd.DataFrame:
    """The rows of the runs that were done, of one model or of all."""
    done = table[table["status"] == "done"]
    return done if model is None else done[done["model"] == model]


def _draw(panel: Any, rows: pd.DataFrame, column: str) -> None:
    for style, prompts in zip(_STYLES, dict.fromkeys(rows["prompts"]), strict=False):
        for footing in FOOTINGS:
            of_line = rows[(rows["prompts"] == prompts) & (rows["footing"] == footing.name)].dropna(subset=column)
            if of_line.empty:
                continue
            look: dict[str, Any] = {"color": colour_of("finemoe"), "alpha": 1 if footing == EVEN else 0.45}
            panel.plot(
                of_line["prefetch_distance"],
                of_line[column],
                linestyle=style,
                linewidth=1.3,
                marker=".",
                markersize=3,
                label=f"{prompts}, {footing.title}",
                **look,
            )
            lowest = of_line.loc[of_line[column].idxmin()]
            panel.plot(lowest["prefetch_distance"], lowest[column], "o", markersize=6, fillstyle="none", **look)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
