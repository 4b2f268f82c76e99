"""Columns that the tables of figures take from runs: labels, status, times and hit rates."""

from collections.abc import Sequence

import pandas as pd

from sim.paper.footings import FOOTINGS
from sim.paper.study import ENDS


def labelled(runs: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """The labels of each run, with `status` and `reason`."""
    return runs.reindex(columns=[*labels, *ENDS])


def summary_column(runs: pd.DataFrame, name: str) -> "pd.Series[float]":
    """A column of the summaries as numbers; NaN if a run has no value."""
    return pd.to_numeric(runs.reindex(columns=[name])[name], errors="coerce").astype(float)


def times_ms(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean TTFT and TPOT of each run, in ms."""
    return pd.DataFrame({f"{metric}_ms": summary_column(runs, f"{metric}_s_mean") * 1e3 for metric in ("ttft", "tpot")})


def counted_hit_rates(runs: pd.DataFrame) -> "pd.Series[float]":
    """The share of demands that each run's footing counts as hits."""
    rates = {footing.name: summary_column(runs, footing.hit_rate) for footing in FOOTINGS}
    counted = [rates[footing].iloc[place] for place, footing in enumerate(runs["footing"])]
    return pd.Series(counted, runs.index, dtype=float)
