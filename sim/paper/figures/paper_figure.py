"""The interface of a figure: the runs that it needs, their table, the picture and the claims."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd

from sim.paper.case import Case
from sim.paper.claims.claim import Claim
from sim.paper.study import Study


class PaperFigure(ABC):
    """A figure or table of the paper."""

    key: ClassVar[str]
    """Its number, such as `10`, `14a` or `table-1`."""
    title: ClassVar[str]
    """A short title."""
    settings: ClassVar[str]
    """The fixed settings, and what the paper does not state, in a few sentences."""

    def cases(self, study: Study) -> Sequence[Case]:
        """The runs that it needs; none if it shows routing alone. Figures share runs with equal scenarios."""
        return ()

    @abstractmethod
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """The tidy table behind the picture, with units in its column names.

        `runs` has a row per case: its labels, `status` (`done`, `refused`, `failed`), `reason`, and the columns of the
        run's summary.
        """

    @abstractmethod
    def draw(self, table: pd.DataFrame) -> Any:
        """Draw the table as a matplotlib figure in the paper's layout."""

    def claims(self) -> Sequence[Claim]:
        """The statements of the paper's text about it."""
        return ()
