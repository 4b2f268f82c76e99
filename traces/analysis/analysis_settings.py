"""What an analysis of a trace depends on."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from common.settings import check


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """What is analysed, and how. All tables but similarities and coverage are of history and test requests alike."""

    train_split: Annotated[float, Interval(ge=0, le=1)] = 0.7
    """Share of the requests that similarities and coverage take as history; the others are tested."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of all draws."""
    requests: Annotated[int, Ge(1)] | None = None
    """Analyse N requests drawn at random. By default all."""
    sample: Annotated[int, Ge(1)] = 400
    """Pair all of N test iterations with all of N stored ones."""
    request: int | None = None
    """Number of the request whose heat maps are drawn. By default the first."""
    shared_cache: bool = False
    """Also draw curves of one cache for all layers (takes minutes)."""

    def __post_init__(self) -> None:
        check(self)
