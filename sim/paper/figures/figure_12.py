"""Figure 12: TPOT over the limit of the expert cache."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from typing_extensions import override

from common.figures import figure, legend_above, panels
from sim.paper.case import Case
from sim.paper.claims.claim import NOT_REPRODUCED, SAME_ORDER, Claim, Reasons, Tables
from sim.paper.claims.claim_values import SUBJECT, rising
from sim.paper.figures.figure_10 import FORM_OF_BASELINE, WHOLE_LAYERS
from sim.paper.figures.lineup import explained, lineup, lineup_table, main_forms, reductions
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.footings import EVEN, FOOTINGS, RELEASED
from sim.paper.paper_systems import BASELINES, DEEPSPEED, OTHER_FORMS, SYSTEMS, PaperSystem
from sim.paper.study import TESTBED, Study

SIZES_GB = (6.0, 12.0, 24.0, 48.0, 96.0)
THIN_SIZES_GB = (6.0, 24.0, 96.0)
TPOT_6_GB = {"DeepSpeed": -0.36, "Mixtral-Offloading": -0.25, "ProMoE": -0.16, "MoE-Infinity": -0.29}
FASTEST_FIRST = ("FineMoE", "ProMoE", "Mixtral-Offloading", "MoE-Infinity", "DeepSpeed")
FAST_ON_QWEN = (
    "On Qwen, ProMoE is faster than FineMoE (figure 12's table): there, learned speculation hits about as often as "
    "expert maps (figure 14a's table)"
)
_REASONS: Mapping[str, Reasons] = {
    "DeepSpeed": {SAME_ORDER: WHOLE_LAYERS},
    "Mixtral-Offloading": {(EVEN.name, SAME_ORDER): FORM_OF_BASELINE.format(baseline="Mixtral-Offloading")},
    "ProMoE": {SAME_ORDER: f"Mixtral and Phi are near the paper's number. {FAST_ON_QWEN}"},
    "MoE-Infinity": {(RELEASED.name, SAME_ORDER): FORM_OF_BASELINE.format(baseline="MoE-Infinity")},
}
_SERIAL_SWAPS = (
    "On Mixtral and Phi, serial loading lengthens Mixtral-Offloading's waits more than MoE-Infinity's (figure 17's "
    f"table, 12 GB), which swaps the two. {FAST_ON_QWEN}"
)
_HELPS_FINEMOE = (
    "Where the gap grows, the larger cache helps FineMoE more than it helps ProMoE, Mixtral-Offloading and DeepSpeed "
    "(figure 12's table)"
)


class Figure12(PaperFigure):
    """TPOT over cache sizes."""

    key = "12"
    title = "TPOT over the limit of the expert cache"
    settings = (
        "Batch 1, six GPUs, the first set of prompts. The limit applies to all GPUs together; no cache is larger than "
        "all experts of a model. Every cache is empty at the start, even if all experts fit."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        """The five systems at every size, and their other forms at the smallest one."""
        return cases_over_sizes(study)

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per system, form, size, trace and footing."""
        return lineup_table(runs)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        """A row of panels per footing and a column per model, with a line per system."""
        main = main_forms(table)
        models = list(main["model"].unique())
        footings = [footing for footing in FOOTINGS if footing.name in set(main["footing"])]
        drawn = figure(7, 1.2 + 1.7 * len(footings))
        grid = panels(drawn, len(footings), len(models), sharex=True, sharey="col")
        for row, footing in zip(grid, footings, strict=True):
            of_footing = main[main["footing"] == footing.name]
            for panel, model in zip(row, models, strict=True):
                _draw(panel, of_footing[of_footing["model"] == model])
            row[0].set_ylabel(f"TPOT [ms]\n{footing.title}", fontsize=8)
        for panel, model in zip(grid[0], models, strict=True):
            panel.set_title(model, fontsize=9)
        for panel in grid[-1]:
            panel.set_xlabel("limit of the expert cache [GB]", fontsize=8)
        legend_above(drawn, *grid[0, 0].get_legend_handles_labels(), columns=5)
        return drawn

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            *(
                Claim(
                    key=f"12-tpot-{baseline.lower()}",
                    figure="12",
                    says=f"With 6 GB, FineMoE's TPOT relative to {baseline}'s, mean over models",
                    rule="number",
                    paper=number,
                    unit="share",
                    ours=partial(_at_6_gb, baseline=baseline),
                    reasons=_REASONS.get(baseline, {}),
                )
                for baseline, number in TPOT_6_GB.items()
            ),
            Claim(
                key="12-tpot-order",
                figure="12",
                says=f"With 6 GB, by TPOT, from the reductions: {' < '.join(FASTEST_FIRST)}",
                rule="order",
                ours=lambda tables: rising(main_forms(smallest(tables["12"])), "tpot_ms", FASTEST_FIRST),
                reasons={(EVEN.name, SAME_ORDER): FAST_ON_QWEN, (RELEASED.name, NOT_REPRODUCED): _SERIAL_SWAPS},
            ),
            Claim(
                key="12-gaps",
                figure="12",
                says="The gaps between FineMoE and the baselines narrow as the cache grows (here: the mean gap in "
                "TPOT, in ms, never grows from one cache size to the next and is smaller at the end; the detail has "
                "the other reading, gaps as shares of the baselines' TPOT)",
                rule="order",
                ours=lambda tables: narrowing(tables["12"]),
                reasons=dict.fromkeys((NOT_REPRODUCED, SAME_ORDER), _HELPS_FINEMOE),
            ),
        ]


def cases_over_sizes(study: Study) -> list[Case]:
    """The runs of figures 12 and 1b."""
    traces = study.of_first_prompts()
    sizes_gb = THIN_SIZES_GB if study.tier.thin else SIZES_GB
    others = () if study.tier.thin else OTHER_FORMS
    return [
        case
        for cache_gb in sizes_gb
        for case in lineup(
            study,
            traces,
            SYSTEMS + others if cache_gb == sizes_gb[0] else SYSTEMS,
            cache_gb=cache_gb,
            machine=TESTBED,
        )
    ]


def _at_6_gb(tables: Tables, *, baseline: str) -> pd.DataFrame:
    return reductions(smallest(tables["12"]), "tpot_ms", baseline)


def smallest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the smallest cache."""
    return table[table["cache_gb"] == SIZES_GB[0]]


def narrowing(table: pd.DataFrame) -> pd.DataFrame:
    """1 if the mean gap to the baselines, in ms, shrinks as the cache grows.

    The detail lists the gaps with and without DeepSpeed, and as shares of the baselines' TPOT.
    """

    def narrows(rows: pd.DataFrame) -> tuple[float, str]:
        gaps = _gaps_ms(rows, BASELINES)
        others = [each for each in BASELINES if each != DEEPSPEED]
        detail = f"{_listed(gaps)}; without DeepSpeed {_listed(_gaps_ms(rows, others))}"
        if gaps.isna().any() or len(gaps) < 2:
            return math.nan, detail
        shares = _gaps_in_shares(rows, BASELINES)
        listed = ", ".join(f"{size:g} GB {share * 100:.1f} %" for size, share in shares.items())
        says = "holds" if _shrinks(shares) else "does not hold"
        return float(_shrinks(gaps)), f"{detail}; as shares of the baselines' TPOT it {says}: {listed}"

    return explained(table, narrows)


def _gaps_ms(rows: pd.DataFrame, baselines: Sequence[PaperSystem]) -> "pd.Series[float]":
    """The mean excess of the baselines' TPOT over FineMoE's, by cache size in GB; NaN if one is missing."""
    times = _times_ms(rows, baselines)
    gaps: pd.Series[float] = times.drop(columns=SUBJECT).sub(times[SUBJECT], axis=0).mean(axis=1, skipna=False)
    return gaps


def _gaps_in_shares(rows: pd.DataFrame, baselines: Sequence[PaperSystem]) -> "pd.Series[float]":
    """FineMoE's mean reduction of TPOT, as a positive share, by cache size in GB."""
    times = _times_ms(rows, baselines)
    kept = times.drop(columns=SUBJECT).rdiv(times[SUBJECT], axis=0)
    gaps: pd.Series[float] = 1 - kept.mean(axis=1, skipna=False)
    return gaps


def _times_ms(rows: pd.DataFrame, baselines: Sequence[PaperSystem]) -> pd.DataFrame:
    """TPOT by cache size and system."""
    times = rows.pivot(index="cache_gb", columns="system", values="tpot_ms").sort_index()
    return times.reindex(columns=[SUBJECT, *(each.name for each in baselines)])


def _shrinks(gaps: "pd.Series[float]") -> bool:
    """Whether no gap is larger than the one before, and the last is smaller than the first."""
    return bool(gaps.is_monotonic_decreasing and gaps.iloc[-1] < gaps.iloc[0])


def _listed(gaps_ms: "pd.Series[float]") -> str:
    return ", ".join(f"{size:g} GB {gap:.0f} ms" for size, gap in gaps_ms.items())


def _draw(panel: Any, rows: pd.DataFrame) -> None:
    for system in reversed(SYSTEMS):
        points = rows[rows["system"] == system.name].sort_values("cache_gb")
        first = system.name == SUBJECT
        panel.plot(
            points["cache_gb"],
            points["tpot_ms"],
            color=system.colour,
            linewidth=2 if first else 1.1,
            marker="o",
            markersize=3.5 if first else 2.5,
            label=system.title,
        )
    sizes = sorted(rows["cache_gb"].unique())
    panel.set(xscale="log", yscale="log")
    panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
    panel.set_xticks([], minor=True)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    panel.tick_params(which="both", labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
