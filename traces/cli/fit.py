"""`python -m traces fit`: give recorded requests the lengths and arrivals of a workload."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group

from common.commands import OUTPUT, under
from common.outputs import new, reserved
from traces.format.target import TraceTarget
from traces.workloads.workload_settings import FitSettings

WORKLOAD = Group("Workload", sort_key=1)


def fit(
    trace: Path,
    /,
    *,
    settings: Annotated[FitSettings, under(WORKLOAD)],
    target: Annotated[TraceTarget, under(OUTPUT)],
) -> None:
    """Give recorded requests the lengths and arrivals of a workload.

    Parameters
    ----------
    trace
        The recorded requests: a folder NAME.trace.
    """
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.format.reader import Trace
        from traces.workloads.fitted_trace import fit_trace

        print(fit_trace(Trace.open(trace), settings, target))
