"""Our values of a claim from a figure's tidy table, with columns model, prompts, footing, system and what is compared.

Each answer has a row per footing and trace, as `Claim.ours` wants it. A table without a column `footing` comes from
routing alone and counts for both. Where a table has other columns that vary (cache, form), pass the rows that count.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from sim.paper.claim import BOTH

COLUMNS = ["footing", "trace", "value", "detail"]
SUBJECT = "FineMoE"


def titles(table: pd.DataFrame) -> pd.Series:
    """The title of each row's trace, as `PaperTrace.title` has it."""
    return table["model"] + ", " + table["prompts"]


def nothing() -> pd.DataFrame:
    """No value at all: the claim cannot be judged here."""
    return pd.DataFrame(columns=COLUMNS)


def each_trace(table: pd.DataFrame, value: Callable[[pd.DataFrame], float]) -> pd.DataFrame:
    """A value from the rows of each footing and trace, in the table's order. An order returns whether it holds."""
    if table.empty:
        return nothing()
    footings = table["footing"] if "footing" in table else pd.Series(BOTH, table.index)
    groups = table.groupby([footings.rename("footing"), titles(table).rename("trace")], sort=False)
    rows = [(footing, trace, float(value(rows)), "") for (footing, trace), rows in groups]
    return pd.DataFrame(rows, columns=COLUMNS)


def changes(table: pd.DataFrame, column: str, against: str, *, subject: str = SUBJECT) -> pd.DataFrame:
    """By how much the subject's value differs from that of another system, a share of the latter: negative if less."""
    return each_trace(table, lambda rows: _of(rows, column, subject) / _of(rows, column, against) - 1)


def hit_gains(table: pd.DataFrame, column: str, against: str, *, subject: str = SUBJECT) -> pd.DataFrame:
    """As `changes`, of a hit rate, a share; the other reading, in percentage points, is the detail."""
    found = changes(table, column, against, subject=subject)
    if found.empty:
        return found
    points = each_trace(table, lambda rows: _of(rows, column, subject) - _of(rows, column, against))
    mean = points.groupby("footing")["value"].mean()
    found["detail"] = [
        f"as a difference: {mean[footing] * 100:+.1f} points".replace("-", "−") for footing in found["footing"]
    ]
    return found


def rising(table: pd.DataFrame, column: str, names: Sequence[str], *, by: str = "system") -> pd.DataFrame:
    """1 where the values of the names rise strictly, in this order; 0 where not; NaN where one is missing."""

    def holds(rows: pd.DataFrame) -> float:
        values = np.array([_of(rows, column, name, by=by) for name in names])
        return float("nan") if np.isnan(values).any() else float((np.diff(values) > 0).all())

    return each_trace(table, holds)


def _of(rows: pd.DataFrame, column: str, name: str, *, by: str = "system") -> float:
    """The one value of a name; NaN if it has none."""
    values = rows.loc[rows[by] == name, column].dropna()
    if len(values) > 1:
        raise ValueError(f"{len(values)} rows of {name} on one trace and footing: which of them counts?")
    return float(values.iloc[0]) if len(values) else float("nan")
