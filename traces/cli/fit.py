"""`finemoe traces fit`: give recorded requests the lengths and arrivals of a workload."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Group

from common.applications import OUTPUT, under
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
    with target.reserved(trace):
        from traces.analysis.naturalness import naturalness_of, warning
        from traces.format import provenance
        from traces.format.reader import Trace
        from traces.workloads.fitted_trace import fit_trace

        fitted = Trace.open(fit_trace(Trace.open(trace), settings, target))
        for line in provenance.caution(warning(naturalness_of(fitted).to_data(), fitted.meta.generation)):
            print(line, file=sys.stderr)
        print(fitted.path)
