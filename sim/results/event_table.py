"""The decision log as a table: `Result.events` in memory, `events.parquet` in a file."""

from collections.abc import Sequence
from typing import Any, get_type_hints

import pandas as pd
import pyarrow as pa

from policies.cache.decision_log import CallName, LoggedCall

_TYPES: dict[Any, tuple[str, pa.DataType]] = {  # of a field: in pandas, in Arrow
    CallName: ("str", pa.large_string()),
    float: ("float64", pa.float64()),
    int: ("int64", pa.int64()),
    bool: ("bool", pa.bool_()),
    tuple[int, ...]: ("object", pa.list_(pa.int64())),
    tuple[float, ...]: ("object", pa.list_(pa.float64())),
}


def event_frame(rows: Sequence[LoggedCall]) -> pd.DataFrame:
    """A column per field of `LoggedCall`; types do not depend on the rows, and lists are tuples."""
    return pd.DataFrame(
        {
            name: pd.Series([row[place] for row in rows], dtype=_TYPES[hint][0])
            for place, (name, hint) in enumerate(get_type_hints(LoggedCall).items())
        }
    )


def event_schema() -> pa.Schema:
    """The types of `events.parquet`: the policy, then the fields of `LoggedCall`."""
    fields = get_type_hints(LoggedCall).items()
    return pa.schema([("policy", pa.large_string()), *((name, _TYPES[hint][1]) for name, hint in fields)])


def with_tuples(read: pd.DataFrame) -> pd.DataFrame:
    """A frame read from `events.parquet`, with tuples instead of arrays, as in an `event_frame`."""
    lists = [name for name, hint in get_type_hints(LoggedCall).items() if _TYPES[hint][0] == "object"]
    return read.assign(**{name: read[name].map(lambda cell: tuple(cell.tolist())) for name in lists})


def logged_calls(events: pd.DataFrame) -> list[LoggedCall]:
    """The rows of an `event_frame`."""
    return list(map(LoggedCall._make, events[list(LoggedCall._fields)].itertuples(index=False, name=None)))
