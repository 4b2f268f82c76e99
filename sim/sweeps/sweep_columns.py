"""The columns of a sweep's table: their types, which do not depend on the rows, and their values as plain data."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

REQUIRED = ("policy", "seed", "status", "reason", "key")
OUTCOMES = ("done", "refused", "failed")

Setting = tuple[Any, ...]  # values of the axes other than policy, its settings and the seed; None for no value

_TEXTS = {"policy", "status", "reason", "key", "label", "note", "machine", "machine_described", "placement"}
_TEXTS |= {"model", "trace", "trace_kind", "trace_warning", "traced_model", "best_known"}
_TEXTS |= {"history_trace", "history_warning", "at_1x", "largest_part"}
_TRUTHS = {"simulated", "fits", "preloaded", "prediction_charged", "prefetching_pays"}
_WHOLE = {"distinct_demands", "hits", "late", "misses", "copies", "prefetched_copies", "evictions", "copied_bytes"}
_WHOLE |= {"expert_memory_bytes", "expert_slots", "requests", "iterations", "output_tokens", "gpus", "batch_size"}
_WHOLE |= {"replicas", "chunk_bytes", "seed", "prefills", "cache_experts", "total_experts", "expert_bytes"}
_WHOLE |= {"copied_bytes_decode", "equal_requests", "equal_tokens", "count"}


def tidy(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The same rows with one type per column: texts, `boolean`, `Int64` or `float64`, each with nulls.

    An axis with values of several types becomes texts. Raises a `ValueError` if a column is missing or duplicate.
    """
    columns = list(frame.columns)
    missing = [name for name in (*axes, *REQUIRED) if name not in columns]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if missing or twice:
        raise ValueError(f"columns missing: {missing}; duplicate columns: {twice}")
    if not set(frame["status"]) <= set(OUTCOMES):
        raise ValueError(f"column status: must be of {OUTCOMES}, values {sorted(set(map(str, frame['status'])))}")
    typed = {name: _typed(frame[name], str(name), name in axes) for name in columns}
    return pd.DataFrame(typed)


def setting_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """The axes that form the setting in which policies are compared."""
    return tuple(axis for axis in axes if axis not in ("policy", "seed") and not axis.startswith("policy."))


def plain(value: Any) -> Any:
    """A cell as `None`, `bool`, `int`, `float` or text."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if np.isnan(value) else value
    return value if isinstance(value, bool | int | str) else str(value)


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain data, by column."""
    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def value_text(value: Any) -> str:
    """A value of an axis as text; a dash if a run has none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if math.isclose(float(short), value, rel_tol=1e-12) else repr(value)
    return str(value)


def metrics(frame: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """The columns that can be averaged and drawn: numbers that are not an axis."""
    numeric = [str(name) for name, kind in frame.dtypes.items() if str(kind) in ("float64", "Int64")]
    return [name for name in numeric if name not in (*axes, "seed")]


def _typed(column: "pd.Series[Any]", name: str, is_axis: bool) -> "pd.Series[Any]":
    values = [plain(value) for value in column]
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    # In a column with nulls, pandas turns whole numbers into floats.
    were_whole = name in _WHOLE or (is_axis and column.dtype == "float64" and len(there) < len(values))
    if were_whole and kinds == {float} and all(value.is_integer() for value in there):
        values, kinds = [None if value is None else int(value) for value in values], {int}
    if kinds <= {bool} and (name in _TRUTHS or kinds):
        return pd.Series(values, dtype="boolean")
    if kinds <= {int} and (name in _WHOLE or (kinds and is_axis)):
        return pd.Series(values, dtype="Int64")
    if name not in _TEXTS and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series([None if value is None else value_text(value) for value in values], dtype="str")
