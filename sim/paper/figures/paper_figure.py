"""What a figure of the paper is here: the runs that it needs, the table that they give, the picture, the claims."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd

from sim.paper.case import Case
from sim.paper.claims.claim import Claim
from sim.paper.study import Study


class PaperFigure(ABC):
    """A figure, or a table, of the paper."""

    key: ClassVar[str]
    """Its number, as `10`, `14a` or `table-1`."""
    title: ClassVar[str]
    """What it shows."""
    settings: ClassVar[str]
    """What is fixed here, and what the paper leaves unsaid, in a sentence."""

    def cases(self, study: Study) -> Sequence[Case]:
        """The runs that it needs; equal scenarios of several figures run once. Of routing alone: none."""
        return ()

    @abstractmethod
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """The tidy table behind the picture, units in the names of its columns.

        `runs` has a row per case: its labels, `status` (`done`, `refused`, `failed`), `reason`, and the columns of a
        run's summary.
        """

    @abstractmethod
    def draw(self, table: pd.DataFrame) -> Any:
        """The picture of a table, as a matplotlib figure in the paper's layout."""

    def claims(self) -> Sequence[Claim]:
        """What the paper's text says of it."""
        return ()
