"""`finemoe sim whatif`: what more or less of each resource would change."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.commands import OUTPUT, under
from sim.experiment import Experiment
from sim.scenario_options import FIELDS, takes_scenario
from sim.store_options import STORE, place_of_store
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
            help="Write the table, a row per policy, resource and factor, into this new folder of a sweep.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Draw TPOT over the factors: .png, .svg or .pdf.")
    ] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print the rows of --out, a list of objects.")] = False,
) -> int:
    """Vary each resource of a scenario from ½× to 4×, the others as they are, and say what matters.

    The resources: link (host to GPU), host memory bandwidth, slots of the cache, compute, CPU time of the framework,
    search, and number of GPUs. The table has TPOT, and TTFT where there is a prefill, at ½×, 1×, 2× and 4×; the
    elasticity, by how many % the time changes with 1% more of the resource; and the largest part of an iteration, with
    the factors between which it becomes another. What cannot be (too few slots, more than the memory holds, half a
    GPU) is left out with its reason.

    All runs go through the result store, so the same command goes on where it was interrupted. The exit status is 1 if
    a run failed, and 2 if none is done.
    """
    from common.errors import UserError
    from common.outputs import new, picture, reserved, then_printed
    from sim.planning.whatif import what_if
    from sim.planning.whatif_figure import draw_what_if
    from sim.planning.whatif_report import report

    with reserved(new(out), picture(plot)):
        found = what_if(experiment, store=place_of_store(store), workers=workers)
        outcomes = set(found.frame["status"])
        with then_printed(lambda: found.json() if json else report(found)):
            if "done" not in outcomes:
                raise UserError("no run is done, so nothing is written" if out or plot else "no run is done")
            if out:
                found.write(out)
            if plot:
                draw_what_if(found, plot)
    return 1 if "failed" in outcomes else 0
