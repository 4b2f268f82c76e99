"""What a figure of the paper is here: the runs that it needs, the table that they give, the picture, the claims."""

from collections.abc import Sequence
from typing import Any, Protocol

import pandas as pd

from sim.paper.case import Case
from sim.paper.claim import Claim
from sim.paper.study import Study


class PaperFigure(Protocol):
    """A figure, or a table, of the paper."""

    @property
    def key(self) -> str:
        """Its number, as `10`, `14a` or `table-1`."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def settings(self) -> str:
        """What is fixed here, and what the paper leaves unsaid, in a sentence."""

    def cases(self, study: Study) -> Sequence[Case]:
        """The runs that it needs; equal scenarios of several figures run once."""

    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """The tidy table behind the picture, units in the names of its columns.

        `runs` has a row per case: its labels, `status` (`done`, `refused`, `failed`), `reason`, and the columns of a
        run's summary.
        """

    def draw(self, table: pd.DataFrame) -> Any:
        """The picture of a table, as a matplotlib figure in the paper's layout."""

    def claims(self) -> Sequence[Claim]:
        """What the paper's text says of it."""
