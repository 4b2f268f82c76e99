"""`finemoe traces analyse`: tabulate and plot routing statistics of a trace."""

import json as json_module
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE, under
from common.errors import UserError
from traces.analysis.analysis_settings import ANALYSIS_FILES, AnalysisSettings

ANALYSIS = Group("Analysis", sort_key=1)


def analyse(
    trace: Path,
    /,
    *,
    settings: Annotated[AnalysisSettings, under(ANALYSIS)] = AnalysisSettings(),
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    json: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> None:
    """Tabulate and plot routing statistics of a trace.

    Parameters
    ----------
    trace
        Trace to analyse: a folder NAME.trace.
    out
        Write tables (Parquet) and figures (PNG) into this new folder.
    json
        Print JSON instead of tables.
    """
    from common.outputs import folder, reserved, then_printed

    with reserved(folder(out, ANALYSIS_FILES), overwrite=overwrite, inputs=[trace]):
        from traces.analysis import analysis_report, trace_analysis
        from traces.format.reader import Trace

        opened = Trace.open(trace)
        if not len(opened):
            raise UserError(f"{trace} has no requests")
        found = trace_analysis.analyse(opened, settings, _bar)

        def text() -> str:
            summary = analysis_report.summary(found)
            return json_module.dumps(summary, indent=1, ensure_ascii=False) if json else analysis_report.report(found)

        with then_printed(text, out, quiet=json):
            if out is not None:
                from traces.analysis.analysis_folder import write_folder

                write_folder(out, found, overwrite=overwrite)


def _bar(ids: Sequence[int]) -> Iterable[int]:
    from common.progress import bar, counted

    with bar("analyse", len(ids)) as done:
        yield from counted(ids, done)
