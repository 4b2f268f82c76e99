"""Systems side by side: the runs and the table of figures 1b, 10, 12 and 13, and values for their claims."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from common.tables import percent
from sim.paper.case import Case
from sim.paper.claims.claim_values import changes, each_trace, hit_gains
from sim.paper.figures.run_columns import counted_hit_rates, labelled, summary_column, times_ms
from sim.paper.footings import FOOTINGS
from sim.paper.paper_systems import OTHER_FORMS, SYSTEMS, PaperSystem
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace

CLAIRVOYANT = PaperSystem(name="Clairvoyant", text="clairvoyant", is_main=False)
"""Knows all future demands, so it bounds what prediction can reach. Not in the paper."""
LABELS = ["model", "prompts", "footing", "machine", "cache_gb", "system", "form"]
HIT_RATES = ["hit_rate", "late_rate", "miss_rate"]


def lineup(
    study: Study,
    traces: Iterable[PaperTrace],
    systems: Sequence[PaperSystem],
    *,
    cache_gb: float,
    machine: str,
    requests: int | None = None,
) -> list[Case]:
    """A run per trace, footing and system with one cache on one machine; `requests` defaults to those of sweeps."""
    return [
        study.case(
            trace,
            system.policy(trace),
            machine=machine,
            footing=footing,
            cache_gb=cache_gb,
            requests=requests,
            system=system.name,
            form=system.form,
        )
        for trace in traces
        for footing in FOOTINGS
        for system in systems
    ]


def systems_of(study: Study) -> tuple[PaperSystem, ...]:
    """The five systems, and their other forms unless the study is thin."""
    return SYSTEMS if study.tier.thin else SYSTEMS + OTHER_FORMS


def lineup_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Labels, status, times in ms and hit rates of each run.

    `counted_hit_rate` is the hit rate as the footing counts it: `hit_rate`, or `hit_rate` plus `late_rate`.
    `experts_gb` is the peak memory of experts.
    """
    table = labelled(runs, LABELS)
    table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
    table["counted_hit_rate"] = counted_hit_rates(runs)
    for rate in HIT_RATES:
        table[rate] = summary_column(runs, rate)
    table["experts_gb"] = summary_column(runs, "expert_memory_bytes") / 1e9
    return table


def main_forms(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the form that represents each system in claims."""
    return table[~_is_other(table)]


def other_forms(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the other forms."""
    return table[_is_other(table)]


def _is_other(table: pd.DataFrame) -> "pd.Series[bool]":
    others = {(system.name, system.form) for system in OTHER_FORMS}
    pairs = zip(table["system"], table["form"], strict=True)
    return pd.Series([pair in others for pair in pairs], table.index, dtype=bool)


def reductions(table: pd.DataFrame, column: str, baseline: str) -> pd.DataFrame:
    """FineMoE's relative change against the main form of a baseline.

    The detail is the mean change of Clairvoyant, which knows every demand, if it was run.
    """
    main = main_forms(table)
    found = changes(main, column, baseline)
    if found.empty or CLAIRVOYANT.name not in set(table["system"]):
        return found
    means = changes(main, column, baseline, subject=CLAIRVOYANT.name).groupby("footing")["value"].mean()
    known = [f"knowing every demand (first prompts): {percent(means[footing])}" for footing in found["footing"]]
    return found.assign(detail=known)


def hit_rate_gains(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """FineMoE's relative change of the footing's hit rate; the detail is the gain in points."""
    return hit_gains(main_forms(table), "counted_hit_rate", baseline)


def explained(table: pd.DataFrame, value: Callable[[pd.DataFrame], tuple[float, str]]) -> pd.DataFrame:
    """A value and its detail per footing and trace, from the rows of the main forms."""
    return each_trace(main_forms(table), value)


def by_system(rows: pd.DataFrame, column: str, names: Sequence[str]) -> "pd.Series[float]":
    """The values of some systems in the rows of one trace and footing; NaN if missing."""
    return rows.set_index("system")[column].reindex(list(names))
