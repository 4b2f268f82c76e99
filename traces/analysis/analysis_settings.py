"""Settings of an analysis."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from common.files import Contents
from common.settings import check

_TABLES = (
    *("balance", "cache_curves", "coverage", "entropy", "entropy_iterations", "heat_map", "overlap", "popularity"),
    *("reuse_distance", "similarity", "similarity_bins", "similarity_pairs"),
)
_PICTURES = ("cache_curves", "coverage", "entropy", "heat_map", "overlap", "popularity", "similarity")
ANALYSIS_FILES = Contents(
    "meta.json",
    "trace_sha256",
    (*(f"{name}.parquet" for name in _TABLES), *(f"{name}.png" for name in _PICTURES)),
)
"""The files in the folder of an analysis; only such a folder is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """What to analyse, and how. Only similarities and coverage split the requests into history and test requests."""

    train_split: Annotated[float, Interval(ge=0, le=1)] = 0.7
    """Share of the requests used as history for similarities and coverage; the others are test requests."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed."""
    requests: Annotated[int, Ge(1)] | None = None
    """Analyse N requests drawn at random. Default: all."""
    sample: Annotated[int, Ge(1)] = 400
    """Draw N test iterations and N history iterations, and compare every pair."""
    request: int | None = None
    """Draw the heat maps of the request with this number. Default: the first."""
    shared_cache: bool = False
    """Also draw hit-rate curves of one cache shared by all layers (takes minutes)."""

    def __post_init__(self) -> None:
        check(self)
