"""Where a command writes its trace."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.settings import Suffix, check


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTarget:
    """The trace to write, and what to do if part or all of it exists."""

    out: Annotated[Path, Suffix(".trace")]
    """Trace to write: a folder NAME.trace."""
    restart: bool = False
    """Discard the work of an interrupted run instead of resuming it."""
    overwrite: bool = False
    """Replace outputs that exist."""

    def __post_init__(self) -> None:
        check(self)


def check_target(target: TraceTarget) -> None:
    """Reject an existing trace before a model is loaded, unless it may be overwritten.

    If a writer was killed while it put the trace in place, finish that first.
    """
    if target.out.exists() and not target.overwrite:
        from traces.format.resumable_folder import PartialFolder  # imports pyarrow

        PartialFolder(target.out).settle()
