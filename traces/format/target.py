"""Where a trace is written to, as commands and settings have it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.settings import Suffix, check


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTarget:
    """The trace to be written, and what becomes of one that is there."""

    out: Annotated[Path, Suffix(".trace")]
    """The trace to write: a folder NAME.trace."""
    restart: bool = False
    """Throw away what an interrupted run has left."""
    overwrite: bool = False
    """Replace a trace that is there."""

    def __post_init__(self) -> None:
        check(self)


def check_target(target: TraceTarget) -> None:
    """Refuse a trace that may not be overwritten, before a model is loaded; first end what a killed writer left."""
    if target.out.exists() and not target.overwrite:
        from traces.format.resumable_folder import PartialFolder  # which brings pyarrow

        PartialFolder(target.out).settle()
