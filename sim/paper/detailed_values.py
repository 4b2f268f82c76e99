"""Values of a claim that come with a detail, such as the figures that an order was read from."""

from collections.abc import Callable

import pandas as pd

from sim.paper.claim import BOTH
from sim.paper.claim_values import COLUMNS, titles


def detailed(table: pd.DataFrame, value: Callable[[pd.DataFrame], tuple[float, str]]) -> pd.DataFrame:
    """A value and its detail from the rows of each footing and trace; for both footings where none is given."""
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    footings = table["footing"] if "footing" in table else pd.Series(BOTH, table.index, name="footing")
    groups = table.groupby([footings, titles(table).rename("trace")], sort=False)
    return pd.DataFrame([(*pair, *value(rows)) for pair, rows in groups], columns=COLUMNS)
