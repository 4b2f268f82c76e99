"""Figure 10: TTFT, TPOT and hit rate of five systems, three models and two sets of prompts."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from sim.paper.case import Case
from sim.paper.claim import Claim, Tables
from sim.paper.claim_values import rising
from sim.paper.lineup import (
    CLAIRVOYANT,
    by_system,
    explained,
    hit_rate_gains,
    lineup,
    lineup_table,
    main_forms,
    reductions,
    systems_of,
)
from sim.paper.lineup_bars import draw_bars
from sim.paper.paper_figure import PaperFigure
from sim.paper.paper_systems import SYSTEMS
from sim.paper.study import CACHE_GB, TESTBED, Study

TTFT = {"DeepSpeed": -0.74, "Mixtral-Offloading": -0.67, "ProMoE": -0.56, "MoE-Infinity": -0.53}
TPOT = {"DeepSpeed": -0.46, "Mixtral-Offloading": -0.38, "ProMoE": -0.27, "MoE-Infinity": -0.22}
HIT_RATE = {"Mixtral-Offloading": 0.14, "ProMoE": 0.37, "MoE-Infinity": 0.68}
"""FineMoE's changes against each baseline in the paper's text, means over models and data sets."""
TIMES = {"ttft": TTFT, "tpot": TPOT}

FASTEST_FIRST = ("FineMoE", "MoE-Infinity", "ProMoE", "Mixtral-Offloading", "DeepSpeed")
"""By TTFT and by TPOT alike: the order of the numbers above."""
FEWEST_HITS_FIRST = ("MoE-Infinity", "ProMoE", "Mixtral-Offloading", "FineMoE")
OVER_ALL = "mean over models and data sets"


class Figure10(PaperFigure):
    """TTFT, TPOT and hit rate of all systems."""

    key = "10"
    title = "TTFT, TPOT and hit rate of five systems"
    settings = (
        f"Batch 1, {CACHE_GB:g} GB of experts on six GPUs; the paper does not say which cache it is (figure 12 has "
        "others). DeepSpeed waits for whole layers and has no misses by construction."
    )

    def cases(self, study: Study) -> Sequence[Case]:
        """Every system and form on every trace, and on the first prompts what knowing every demand would give."""
        requests, systems = study.tier.test_requests, systems_of(study)
        runs = lineup(study, study.traces, systems, cache_gb=CACHE_GB, machine=TESTBED, requests=requests)
        if not study.tier.thin:
            traces, known = study.of_first_prompts(), [CLAIRVOYANT]
            runs += lineup(study, traces, known, cache_gb=CACHE_GB, machine=TESTBED, requests=requests)
        return runs

    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per system, form, trace and footing."""
        return lineup_table(runs)

    def draw(self, table: pd.DataFrame) -> Any:
        """Bars by model, metric and set of prompts."""
        return draw_bars(table)

    def claims(self) -> Sequence[Claim]:
        """Every reduction, every gain, and the orders that they state."""
        return [*_reductions(), *_hit_rates(), *_orders()]


def _reductions() -> list[Claim]:
    return [
        Claim(
            key=f"10-{metric}-{baseline.lower()}",
            figure="10",
            says=f"FineMoE's {metric.upper()} against {baseline}'s, {OVER_ALL}",
            rule="number",
            paper=number,
            unit="share",
            ours=partial(_reduction, column=f"{metric}_ms", baseline=baseline),
        )
        for metric, numbers in TIMES.items()
        for baseline, number in numbers.items()
    ]


def _hit_rates() -> list[Claim]:
    return [
        Claim(
            key=f"10-hit-{baseline.lower()}",
            figure="10",
            says=f"FineMoE's hit rate over {baseline}'s, as a ratio, {OVER_ALL}",
            rule="number",
            paper=number,
            unit="share",
            ours=partial(_hit_rate_gain, baseline=baseline),
        )
        for baseline, number in HIT_RATE.items()
    ]


def _orders() -> list[Claim]:
    return [
        *(
            Claim(
                key=f"10-{metric}-order",
                figure="10",
                says=f"By {metric.upper()}, from the reductions: {' < '.join(FASTEST_FIRST)}",
                rule="order",
                ours=partial(_order, column=f"{metric}_ms", names=FASTEST_FIRST),
            )
            for metric in TIMES
        ),
        Claim(
            key="10-hit-order",
            figure="10",
            says=f"By hit rate, from the gains: {' < '.join(FEWEST_HITS_FIRST)}",
            rule="order",
            ours=partial(_order, column="counted_hit_rate", names=FEWEST_HITS_FIRST),
        ),
        Claim(
            key="10-deepspeed-worst",
            figure="10",
            says="DeepSpeed loads whole layers: it has no expert misses but the highest TTFT and TPOT",
            rule="order",
            ours=lambda tables: _slowest_without_misses(tables["10"]),
        ),
    ]


def _reduction(tables: Tables, *, column: str, baseline: str) -> pd.DataFrame:
    return reductions(tables["10"], column, baseline)


def _hit_rate_gain(tables: Tables, *, baseline: str) -> pd.DataFrame:
    return hit_rate_gains(tables["10"], baseline)


def _order(tables: Tables, *, column: str, names: Sequence[str]) -> pd.DataFrame:
    return rising(main_forms(tables["10"]), column, names)


def _slowest_without_misses(table: pd.DataFrame) -> pd.DataFrame:
    names = [system.name for system in SYSTEMS]

    def holds(rows: pd.DataFrame) -> tuple[float, str]:
        times = rows.set_index("system")[["ttft_ms", "tpot_ms"]].reindex(names)
        if times.isna().any(axis=None):
            return math.nan, ""
        misses = by_system(rows, "miss_rate", names)["DeepSpeed"]
        slowest = (times.idxmax() == "DeepSpeed").all()
        return float(slowest and misses == 0), f"slowest: {times['ttft_ms'].idxmax()} and {times['tpot_ms'].idxmax()}"

    return explained(table, holds)
