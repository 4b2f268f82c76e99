"""Where a command writes its trace."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.outputs import Output, folder, reserved
from common.settings import Suffix, check
from traces.format.trace_files import TRACE_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTarget:
    """The trace to write, and what to do if part or all of it exists."""

    out: Annotated[Path, Suffix(".trace")]
    """Trace to write: a folder NAME.trace."""
    restart: bool = False
    """Discard the work of an interrupted run instead of resuming it."""
    overwrite: bool = False
    """Replace existing outputs; other files and folders stay as they are."""

    def __post_init__(self) -> None:
        check(self)

    def reserved(self, *inputs: Path | None) -> AbstractContextManager[None]:
        """Within the block, no other command writes this trace; a `UserError` if it must not be replaced."""
        return reserved(trace_folder(self.out), overwrite=self.overwrite, inputs=inputs)


def trace_folder(path: Path | None) -> Output | None:
    """A trace as the output of a command."""
    return folder(path, TRACE_FILES)


def check_target(target: TraceTarget) -> None:
    """Reject an existing trace before a model is loaded, unless it may be overwritten.

    If a writer was killed while it put the trace in place, finish that first.
    """
    if target.out.exists() and not target.overwrite:
        from traces.format.resumable_folder import PartialFolder  # imports pyarrow

        PartialFolder(target.out).settle()
