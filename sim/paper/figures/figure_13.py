"""Figure 13: TTFT, TPOT and hit rate on one A100, beside figure 10's six GPUs."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from common.tables import percent
from sim.paper.case import Case
from sim.paper.claims.claim import NOT_REPRODUCED, Claim
from sim.paper.claims.claim_values import SUBJECT
from sim.paper.figures.lineup import by_system, explained, lineup, lineup_table, systems_of
from sim.paper.figures.lineup_bars import BEYOND, draw_bars
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.paper_systems import FINEMOE, MOE_INFINITY, PROMOE, SYSTEMS
from sim.paper.study import CACHE_GB, SECOND_TESTBED, TESTBED, Study

NAMES = {TESTBED: "six GPUs", SECOND_TESTBED: "one A100"}
WIDE_LINK = f"{SECOND_TESTBED},host_link.bytes_per_s=192e9"
"""The A100 with a link as fast as those of the six GPUs together, to isolate the effect of the link on hit rates."""
ALL = [system.name for system in SYSTEMS]
TIMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
UNCHANGED = 0.05  # a change of hit rate up to this counts as nearly unchanged
_NUMBER_OF_LINKS = (
    "The cause is the number of GPUs, each with its own link, not the rate of a link: on one A100, FineMoE and ProMoE "
    "have nearly the same hit rates with its own link and with one as fast as six together. Systems that wait for "
    "their prefetches hardly change from six GPUs to one (figure 13's table)"
)
_ITS_CODE = (
    "It depends on the form of MoE-Infinity: FineMoE is slightly behind the form of its code, which does not wait for "
    "its prefetches, and ahead of the form of its paper (figure 13's table)"
)


class Figure13(PaperFigure):
    """Figure 10 on another machine."""

    key = "13"
    title = "TTFT, TPOT and hit rate on one A100"
    settings = (
        f"Batch 1, {CACHE_GB:g} GB of experts, the first set of prompts, on one A100 as stated in the paper, beside "
        "figure 10's six GPUs. The paper does not state the cache size. "
        f"{BEYOND}"
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        """Every system and form on both machines, and FineMoE and ProMoE on the A100 with a faster link."""
        machines = dict.fromkeys(NAMES, systems_of(study)) | ({} if study.tier.thin else {WIDE_LINK: (FINEMOE, PROMOE)})
        return [
            case
            for machine, systems in machines.items()
            for case in lineup(study, study.of_first_prompts(), systems, cache_gb=CACHE_GB, machine=machine)
        ]

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per machine, system, form, model and footing."""
        return lineup_table(runs)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        shown = table[table["machine"].isin(NAMES)]
        return draw_bars(shown.assign(machine=shown["machine"].map(NAMES)), groups="machine")

    @override
    def claims(self) -> Sequence[Claim]:
        return [
            Claim(
                key="13-gains",
                figure="13",
                says="FineMoE's reductions are smaller on one A100 than on six GPUs (here: those of TTFT and of TPOT, "
                "each the mean over the four baselines)",
                rule="order",
                ours=lambda tables: smaller_gains(tables["13"]),
            ),
            Claim(
                key="13-hit",
                figure="13",
                says="Hit rates are nearly unchanged from six GPUs to one A100 (here: each of the five systems', by at "
                f"most {UNCHANGED * 100:g} points)",
                rule="bound",
                unit="share",
                high=UNCHANGED,
                ours=lambda tables: largest_change(tables["13"]),
                reasons={NOT_REPRODUCED: _NUMBER_OF_LINKS},
            ),
            Claim(
                key="13-tpot-moe-infinity-mixtral",
                figure="13",
                says="The paper's own bars show FineMoE slightly behind MoE-Infinity in TPOT on Mixtral, one A100",
                rule="order",
                ours=lambda tables: behind_moe_infinity(tables["13"]),
                reasons={NOT_REPRODUCED: _ITS_CODE},
            ),
        ]


def _on(table: pd.DataFrame, machine: str) -> pd.DataFrame:
    return table[table["machine"] == machine]


def smaller_gains(table: pd.DataFrame) -> pd.DataFrame:
    """1 if FineMoE's mean reductions of TTFT and TPOT are smaller on the A100; the detail lists them."""

    def smaller(rows: pd.DataFrame) -> tuple[float, str]:
        six, one = (_mean_changes(_on(rows, machine)) for machine in NAMES)
        if six.isna().any() or one.isna().any():
            return math.nan, ""
        details = [
            f"{name} {percent(one[column])}, on six GPUs {percent(six[column])}" for column, name in TIMES.items()
        ]
        return float((one > six).all()), "; ".join(details)

    return explained(table, smaller)


def _mean_changes(rows: pd.DataFrame) -> "pd.Series[float]":
    """FineMoE's mean change against the baselines per column of times; NaN if one is missing."""
    changes = {}
    for column in TIMES:
        values = by_system(rows, column, ALL)
        changes[column] = (values[SUBJECT] / values.drop(SUBJECT) - 1).mean(skipna=False)
    return pd.Series(changes)


def largest_change(table: pd.DataFrame) -> pd.DataFrame:
    """The largest difference between a system's hit rates on the two machines.

    The detail names that system, and has FineMoE's difference with the A100's link and with one as fast as six.
    """

    def change(rows: pd.DataFrame) -> tuple[float, str]:
        six, one, wide = (
            by_system(_on(rows, machine), "counted_hit_rate", ALL) * 100 for machine in (*NAMES, WIDE_LINK)
        )
        points = one - six
        if points.isna().any():
            return math.nan, ""
        worst = str(points.abs().idxmax())
        detail = f"{worst} {points[worst]:+.1f} points, FineMoE {points[SUBJECT]:+.1f}"
        if not math.isnan(wide[SUBJECT]):
            detail += f", on a link of 192 GB/s {wide[SUBJECT] - six[SUBJECT]:+.1f}"
        return abs(points[worst]) / 100, detail

    return explained(table, change)


def behind_moe_infinity(table: pd.DataFrame) -> pd.DataFrame:
    """1 if FineMoE's TPOT on Mixtral and the A100 is above MoE-Infinity's; the detail says by how much."""

    def behind(rows: pd.DataFrame) -> tuple[float, str]:
        values = by_system(rows, "tpot_ms", [SUBJECT, MOE_INFINITY.name])
        if values.isna().any():
            return math.nan, ""
        change = values[SUBJECT] / values[MOE_INFINITY.name] - 1
        return float(change > 0), f"{percent(change)} against MoE-Infinity"

    return explained(_on(table[table["model"] == "Mixtral"], SECOND_TESTBED), behind)
