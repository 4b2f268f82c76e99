"""Compute our values of a claim from a figure's tidy table, with columns model, prompts, footing, system and a value.

Each function returns a row per footing and trace, as `Claim.ours` requires. A table without a column `footing` comes
from routing alone and counts for both. If other columns vary (cache, form), pass only the rows that count.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from sim.paper.claims.claim import BOTH

COLUMNS = ["footing", "trace", "value", "detail"]
SUBJECT = "FineMoE"


def titles(table: pd.DataFrame) -> pd.Series:
    """The title of each row's trace, as `PaperTrace.title` has it."""
    return table["model"] + ", " + table["prompts"]


def nothing() -> pd.DataFrame:
    """No values, so the claim cannot be judged."""
    return pd.DataFrame(columns=COLUMNS)


Value = float | tuple[float, str]
"""A value, or a value with its detail."""


def each_trace(table: pd.DataFrame, value: Callable[[pd.DataFrame], Value]) -> pd.DataFrame:
    """A value from the rows of each footing and trace, in the table's order. For an order, whether it holds."""
    if table.empty:
        return nothing()
    footings = table["footing"] if "footing" in table else pd.Series(BOTH, table.index)
    groups = table.groupby([footings.rename("footing"), titles(table).rename("trace")], sort=False)
    return pd.DataFrame([(*pair, *_with_detail(value(rows))) for pair, rows in groups], columns=COLUMNS)


def _with_detail(value: Value) -> tuple[float, str]:
    number, detail = value if isinstance(value, tuple) else (value, "")
    return float(number), detail


def changes(table: pd.DataFrame, column: str, against: str, *, subject: str = SUBJECT) -> pd.DataFrame:
    """The subject's relative change against another system: negative if its value is smaller."""
    return each_trace(table, lambda rows: _of(rows, column, subject) / _of(rows, column, against) - 1)


def hit_gains(table: pd.DataFrame, column: str, against: str, *, subject: str = SUBJECT) -> pd.DataFrame:
    """The relative change of a hit rate, as in `changes`; its detail is the difference in percentage points."""
    found = changes(table, column, against, subject=subject)
    if found.empty:
        return found
    points = each_trace(table, lambda rows: _of(rows, column, subject) - _of(rows, column, against))
    mean = points.groupby("footing")["value"].mean()
    found["detail"] = [
        f"as a difference: {mean[footing] * 100:+.1f} points".replace("-", "−") for footing in found["footing"]
    ]
    return found


def _order_of(values: "pd.Series[float]") -> str:
    return " < ".join(values.sort_values().index)


def rising(
    table: pd.DataFrame,
    column: str,
    names: Sequence[str],
    *,
    by: str = "system",
    detail: Callable[["pd.Series[float]"], str] = _order_of,
) -> pd.DataFrame:
    """1 if the values rise strictly in the order of `names`, 0 if not; NaN without a detail if one is missing.

    `detail` makes the detail from the values by name; the default is the order found.
    """

    def holds(rows: pd.DataFrame) -> Value:
        values = pd.Series({name: _of(rows, column, name, by=by) for name in names})
        if values.isna().any():
            return math.nan
        return float(values.is_monotonic_increasing and values.is_unique), detail(values)

    return each_trace(table, holds)


def _of(rows: pd.DataFrame, column: str, name: str, *, by: str = "system") -> float:
    """The only value of a name; NaN if there is none."""
    values = rows[column].to_numpy(float)[rows[by].to_numpy() == name]
    values = values[~np.isnan(values)]
    if len(values) > 1:
        raise ValueError(f"{len(values)} rows of {name} on one trace and footing; expected one")
    return float(values[0]) if len(values) else math.nan
