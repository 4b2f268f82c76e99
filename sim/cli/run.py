"""`finemoe sim run`: compare policies on a trace."""

import json as json_text
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.applications import OUTPUT, OVERWRITE
from sim.experiment import Experiment
from sim.scenario_options import FIELDS, RUN, takes_scenario
from sim.store_options import check_apart


@takes_scenario(*FIELDS)
def run(
    experiment: Experiment,
    *,
    references: Annotated[
        str | None,
        Parameter(
            group=RUN,
            help="Reference runs to compare with: no-offload, best-known, own-cache, lower-bound, separated by commas; "
            "or none. Default: those that the printed or written columns need.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        Parameter(
            group=RUN, help="Policies to run in parallel. Default: one per processor for long runs, otherwise 1."
        ),
    ] = None,
    store: Annotated[
        Path | None,
        Parameter(group=OUTPUT, help="Result store to read runs from and keep new ones in. Default: $FINEMOE_STORE."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write the results as Parquet tables into this new folder.")
    ] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a JSON list of objects, one per policy.")] = False,
    brief: Annotated[
        bool, Parameter(group=OUTPUT, help="Print one table of five columns, with the notes it needs.")
    ] = False,
    wide: Annotated[bool, Parameter(group=OUTPUT, help="Print all columns, in lines of any width.")] = False,
) -> None:
    """Simulate policies on the requests of a trace, and compare them."""
    from common.errors import FieldError
    from common.outputs import folder, reserved, then_printed
    from sim.results.report import brief_report, report
    from sim.results.result import RESULT_FILES
    from sim.sweeps.comparison_run import compare_policies
    from sim.sweeps.reference_runs import BRIEF_REFERENCES, DEFAULT_REFERENCES, EVERY_BOUND, references_named
    from sim.sweeps.workers import Workers

    if brief and wide:
        raise FieldError("brief", "cannot be combined with `wide`: one prints few columns, the other all")
    shown = BRIEF_REFERENCES if brief else DEFAULT_REFERENCES
    wanted = EVERY_BOUND if json or out else shown
    if references is not None:
        wanted = references_named(references, EVERY_BOUND)
    check_apart(store, out)
    with reserved(folder(out, RESULT_FILES), overwrite=overwrite):
        comparison = compare_policies(
            experiment,
            references=wanted,
            store=store or os.environ.get("FINEMOE_STORE"),
            workers=None if jobs is None else Workers(jobs=jobs),
        )

        def printed() -> str:
            if json:
                return json_text.dumps(comparison.summaries(), indent=2)
            return brief_report(comparison) if brief else report(comparison, wide=wide)

        with then_printed(printed, out, quiet=json or brief):
            if out:
                comparison.write(out, overwrite=overwrite)
