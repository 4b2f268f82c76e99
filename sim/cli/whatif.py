"""`finemoe sim whatif`: show what more or less of each resource would change."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE, under
from sim.experiment import Experiment
from sim.scenario_options import FIELDS, takes_scenario
from sim.store_options import STORE, check_apart, place_of_store
from sim.sweeps.workers import Workers

SWEEP = Group("Sweep", sort_key=60)


@takes_scenario(*FIELDS)
def whatif(
    experiment: Experiment,
    *,
    workers: Annotated[Workers, under(SWEEP)] = Workers(),
    store: Annotated[Path | None, STORE] = None,
    out: Annotated[
        Path | None,
        Parameter(
            group=OUTPUT,
            help="Write the results into this new folder, as a sweep: a table with one row per policy, resource and "
            "factor.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Draw TPOT over the factors to FILE.png, .svg or .pdf.")
    ] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print the rows of --out as a JSON list of objects.")] = False,
) -> int:
    """Vary one resource of a scenario at a time, from ½× to 4×, and show how much each matters.

    The resources are link (host to GPU), host memory bandwidth, cache slots, compute, the framework's CPU time,
    search, and the number of GPUs. The tables show TPOT (and TTFT if the trace has prefills) at ½×, 1×, 2× and 4×, and
    the elasticity: the percentage by which the time changes with 1 % more of the resource. They also show which part of
    an iteration takes longest, and between which factors that changes. Impossible factors (too few slots, more than the
    memory holds) are left out, and the reason is printed. GPUs vary only in whole numbers.

    All runs go through the result store, so the same command resumes after an interruption. The exit status is 1 if a
    run failed, and 2 if no run finished.
    """
    from common.errors import UserError
    from common.outputs import folder, picture, reserved, then_printed
    from sim.planning.whatif import what_if
    from sim.planning.whatif_figure import draw_what_if
    from sim.planning.whatif_report import report
    from sim.sweeps.sweep import SWEEP_FILES

    check_apart(place_of_store(store), out)
    with reserved(folder(out, SWEEP_FILES), picture(plot), overwrite=overwrite):
        found = what_if(experiment, store=place_of_store(store), workers=workers)
        outcomes = set(found.frame["status"])
        with then_printed(lambda: found.json() if json else report(found), out, plot, quiet=json):
            if "done" not in outcomes:
                raise UserError("no run finished, so nothing is written" if out or plot else "no run finished")
            if out:
                found.write(out, overwrite=overwrite)
            if plot:
                draw_what_if(found, plot)
    return 1 if "failed" in outcomes else 0
