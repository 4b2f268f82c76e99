"""Figure 17: latency breakdown of one iteration."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import BLUE, GREEN, GREY, MAROON, NAVY, ORANGE, RED, figure, legend_above, panels
from sim.engine.time_split import PARTS
from sim.paper.case import Case
from sim.paper.claims.claim import SAME_ORDER, Claim
from sim.paper.claims.claim_values import SUBJECT
from sim.paper.figures.lineup import LABELS, explained, lineup
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.figures.run_columns import labelled, summary_column
from sim.paper.footings import EVEN
from sim.paper.paper_systems import BASELINES, SYSTEMS, PaperSystem
from sim.paper.study import CACHE_GB, TESTBED, Study

PHASES = {"prefill": "prefill", "decode": "decode iteration"}
WAITING = PaperSystem(
    name="FineMoE, waiting",
    text="sim.paper.figures.waiting_finemoe:waiting,prefetch_distance={best_distance}",
    is_main=False,
)
"""FineMoE with its searches on the critical path."""
INFERENCE, LOADING, OTHER = "inference", "loading", "other"
GROUPS = {
    "compute_s": INFERENCE,
    "exchange_s": INFERENCE,
    "overhead_s": INFERENCE,
    "miss_wait_s": LOADING,
    "late_wait_s": LOADING,
    "wave_wait_s": LOADING,
    "prefetch_wait_s": LOADING,
    "search_wait_s": OTHER,
}
SHOWN = {
    "compute": ("computing", BLUE),
    "exchange": ("exchange and launching kernels", GREY),
    "miss": ("waiting for misses", RED),
    "late": ("for experts in flight", ORANGE),
    "wave": ("for later waves", MAROON),
    "prefetch": ("for prefetches", GREEN),
    "search": ("for searches", NAVY),
}
LIMIT_MS, LIMIT_SHARE = 50.0, 0.015
_SHORT_ITERATIONS = (
    "Searches take less than the paper's limit of 50 ms, but a prefill of Qwen is short too. 50 ms are 1 % of an "
    "iteration of 5 s, which is longer than any here (figure 17's table)"
)


class Figure17(PaperFigure):
    """The time of a mean iteration, split into parts."""

    key = "17"
    title = "Latency breakdown of one iteration"
    settings = (
        f"Batch 1, {CACHE_GB:g} GB of experts on six GPUs, the first set of prompts, even footing. FineMoE's searches "
        "run beside inference, so nothing waits for them. 'FineMoE, waiting' puts all of them on the critical path, "
        "which is the most that they could add. Collecting the context takes no time here."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        requests = study.tier.test_requests
        return lineup(
            study, study.of_first_prompts(), [*SYSTEMS, WAITING], cache_gb=CACHE_GB, machine=TESTBED, requests=requests
        )

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per part of a phase's mean iteration, with its time in ms, its share of the total, and its `group`."""
        parts = []
        for phase in PHASES:
            times = pd.DataFrame({part: summary_column(runs, f"{phase}_{part}") * 1e3 for part in PARTS})
            total_ms = times.sum(axis=1, skipna=False)
            parts += [
                labelled(runs, LABELS).assign(
                    phase=phase,
                    part=part.removesuffix("_s"),
                    group=GROUPS[part],
                    ms=times[part],
                    share=times[part] / total_ms,
                )
                for part in PARTS
            ]
        return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        models = list(table["model"].unique())
        drawn = figure(7, 3.9)
        grid = panels(drawn, len(PHASES), len(models), sharey=True)
        names = [SUBJECT, WAITING.name, *(system.name for system in BASELINES)]
        even = table[table["footing"] == EVEN.name]
        handles: dict[str, Any] = {}
        for row, (phase, title) in zip(grid, PHASES.items(), strict=True):
            for panel, model in zip(row, models, strict=True):
                handles |= _draw(panel, even[(even["model"] == model) & (even["phase"] == phase)], names)
                panel.set_xlabel(f"{title} [ms]", fontsize=8)
        for panel, model in zip(grid[0], models, strict=True):
            panel.set_title(model, fontsize=9)
        legend_above(drawn, handles.values(), handles.keys(), columns=4)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="17-overhead-ms",
                figure="17",
                says="On FineMoE's critical path, everything except inference and loading takes less than 50 ms (here: "
                "in a prefill that waits for every search and update)",
                rule="bound",
                unit="ms",
                high=LIMIT_MS,
                ours=lambda tables: most_other(tables["17"], "ms"),
            ),
            Claim(
                key="17-overhead-share",
                figure="17",
                says="Everything except inference and loading takes about 1 % of an iteration (here: below "
                f"{LIMIT_SHARE * 100:g} % of a prefill that waits for every search and update)",
                rule="bound",
                unit="share",
                high=LIMIT_SHARE,
                ours=lambda tables: most_other(tables["17"], "share"),
                reasons={(EVEN.name, SAME_ORDER): _SHORT_ITERATIONS},
            ),
        ]


def most_other(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """FineMoE's wait in a prefill if all searches block; the detail has its wait if they do not."""

    def found(rows: pd.DataFrame) -> tuple[float, str]:
        other = rows[rows["group"] == OTHER].groupby(["system", "phase"])[column].sum(min_count=1)
        scale, unit = (100, "%") if column == "share" else (1, "ms")
        waiting, beside = (other[system] * scale for system in (WAITING.name, SUBJECT))
        detail = (
            f"in a decode iteration {waiting['decode']:.1f} {unit}; with searches beside inference, as in the paper, "
            f"{beside['prefill']:.1f} and {beside['decode']:.1f} {unit}"
        )
        return float(other[WAITING.name, "prefill"]), detail

    return explained(table, found)


def _draw(panel: Any, rows: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    parts = rows.assign(part=rows["part"].str.removesuffix("_wait").replace("overhead", "exchange"))
    ms = parts.pivot_table(index="system", columns="part", values="ms", aggfunc="sum").reindex(list(names))
    places, left, handles = range(len(names) - 1, -1, -1), pd.Series(0.0, list(names)), {}
    for part, (name, colour) in SHOWN.items():
        if ms[part].fillna(0).any():
            handles[name] = panel.barh(places, ms[part], left=left, color=colour, height=0.7)
            left = left + ms[part].fillna(0)
    panel.set_yticks(places, names)
    panel.set_xlim(0, 1.03 * left.max())
    panel.tick_params(labelsize=7)
    panel.grid(axis="x", alpha=0.3, linewidth=0.5)
    panel.set_axisbelow(True)
    return handles
