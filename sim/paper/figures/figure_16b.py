"""Figure 16b: TTFT and TPOT over the batch size."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import figure, panels
from sim.paper.case import Case
from sim.paper.claims.claim import NOT_REPRODUCED, Claim
from sim.paper.claims.claim_values import SUBJECT, each_trace
from sim.paper.figures.footing_bars import draw_footing_bars, footing_legend
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.run_columns import counted_hit_rates, labelled, summary_column, times_ms
from sim.paper.footings import FOOTINGS, RELEASED
from sim.paper.paper_systems import DEEPSPEED, SYSTEMS
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace

BATCH_SIZES = (1, 2, 4, 8)
THIN_BATCH_SIZES = (1, 2)
COMPARED = tuple(system for system in SYSTEMS if system != DEEPSPEED)
LABELS = ["model", "prompts", "footing", "cache_gb", "batch_size", "system", "form"]
METRICS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
EVICTED_PREFILL = (
    "MoE-Infinity has the lowest TTFT at every batch size. At batch size 1, the cause is FineMoE's own eviction rule: "
    "with LRU instead, its TTFT is below MoE-Infinity's (tables of figures 14b and 16b). Larger batches were not tried "
    "with LRU"
)


class Figure16b(PaperFigure):
    """TTFT and TPOT of four systems at each batch size."""

    key = "16b"
    title = "TTFT and TPOT over the batch size"
    settings = (
        "Mixtral with the first set of prompts, without DeepSpeed, as in the paper; cache 12 GB (not stated in the "
        "paper). Requests of a batch start together, and the next batch starts when the last of them has ended. At "
        "least as many requests run as the largest batch holds."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        """A run per footing, batch size and system, with at least as many requests as the largest batch holds."""
        sizes = THIN_BATCH_SIZES if study.tier.thin else BATCH_SIZES
        return [
            study.case(
                trace,
                system.policy(trace),
                footing=footing,
                requests=max(study.tier.sweep_requests, sizes[-1]),
                batch_size=batch_size,
                system=system.name,
                form=system.form,
            )
            for trace in _traces(study)
            for footing in FOOTINGS
            for batch_size in sizes
            for system in COMPARED
        ]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """Times in ms, and hit rates, by batch size and system."""
        table = labelled(runs, LABELS)
        table["requests"] = summary_column(runs, "requests")
        table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
        table["counted_hit_rate"] = counted_hit_rates(runs)
        return table

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        colours = {system.title: system.colour for system in COMPARED}
        titles = {system.name: system.title for system in COMPARED}
        rows = table.assign(title=table["system"].map(titles))
        drawn = figure(7, 2.8)
        for panel, (column, metric) in zip(panels(drawn, 1, len(METRICS))[0], METRICS.items(), strict=True):
            draw_footing_bars(panel, rows, column, groups="batch_size", bars="title", colours=colours)
            panel.set_xlabel("batch size [requests]", fontsize=8)
            panel.set_ylabel(f"{metric} [ms]", fontsize=8)
        footing_legend(drawn, colours, columns=3)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="16b-lowest",
                figure="16b",
                says=f"{SUBJECT} has the lowest time in most cases (here: in more than half of the pairs of batch size "
                "and metric, TTFT or TPOT)",
                rule="order",
                ours=lambda tables: each_trace(tables["16b"], mostly_lowest),
                reasons={(RELEASED.name, NOT_REPRODUCED): EVICTED_PREFILL},
            )
        ]


def mostly_lowest(rows: pd.DataFrame) -> tuple[float, str]:
    """1 if FineMoE has the lowest time in more than half of the cases; the detail names the others' cases."""
    fastest: dict[tuple[str, int], str] = {}
    full = rows[rows["batch_size"] <= rows["requests"]]  # a smaller trace cannot fill the larger batches
    for column, metric in METRICS.items():
        times = full.pivot(index="batch_size", columns="system", values=column)
        times = times.reindex(columns=[system.name for system in COMPARED]).dropna()
        for size in times.index:
            fastest[metric, int(size)] = str(times.loc[size].idxmin())
    if not fastest:
        return math.nan, ""
    own = [case for case, system in fastest.items() if system == SUBJECT]
    others = [f"{metric} at {size}: {system}" for (metric, size), system in fastest.items() if system != SUBJECT]
    text = "; ".join([f"lowest in {len(own)} of {len(fastest)} cases", *others])
    return float(2 * len(own) > len(fastest)), text


def _traces(study: Study) -> Sequence[PaperTrace]:
    """Mixtral's trace, or the first one if there is none."""
    traces = study.of_first_prompts()
    return [trace for trace in traces if trace.model == "Mixtral"] or traces[:1]
