"""`finemoe sim sweep`: run every combination of an experiment, or say what that would be."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.commands import OUTPUT, under
from sim.store_options import STORE, place_of_store
from sim.sweeps.workers import Workers

SWEEP = Group("Sweep", sort_key=40)


def sweep(
    experiment: Annotated[Path, Parameter(help="A file with a scenario and the axes along which it varies.")],
    /,
    *,
    store: Annotated[Path | None, STORE] = None,
    references: Annotated[
        str,
        Parameter(
            group=SWEEP,
            help="What to measure the runs against, separated by commas: no-offload, best-known (clairvoyant and "
            "perfect prefetch, of which the fastest counts), own-cache (each policy's cache without prefetch), "
            "lower-bound, regret (each policy with perfect prediction, and with perfect eviction); or none. Each is "
            "run once, if the store does not have it.",
        ),
    ] = "no-offload,best-known,own-cache",
    workers: Annotated[Workers, under(SWEEP)] = Workers(),
    dry_run: Annotated[
        bool,
        Parameter(group=SWEEP, help="Print the planned runs, those that are refused and why, and a time estimate."),
    ] = False,
    status: Annotated[
        bool,
        Parameter(group=SWEEP, help="Print the progress of this sweep, also from another terminal."),
    ] = False,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write the table, a row per run, into this new folder.")
    ] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a list of objects, one per run.")] = False,
) -> int:
    """Run every combination of an experiment that the store does not have yet, and compare the policies.

    A refused or failed run is reported at the end and does not stop the others. Run the same command again to resume.
    The exit status is 1 if a run failed, and 2 if none is done.
    """
    from common.errors import FieldError, UserError
    from common.outputs import new, reserved, then_printed
    from sim.experiment import Experiment
    from sim.sweeps.reference_runs import references_named
    from sim.sweeps.sweep_run import run_sweep
    from sim.sweeps.sweep_status import dry_run_report, status_report

    wanted = references_named(references)
    described = Experiment.read(experiment)
    place = place_of_store(store)
    given = [name for name, value in (("dry_run", dry_run), ("status", status), ("out", out), ("json", json)) if value]
    if given[1:] and given[0] in ("dry_run", "status"):
        raise FieldError(given[1], f"cannot be combined with `{given[0]}`")
    if dry_run or status:
        print((dry_run_report if dry_run else status_report)(described, place, wanted, workers))
        return 0
    with reserved(new(out)):
        found = run_sweep(described, store=place, references=wanted, workers=workers)
        outcomes = set(found.frame["status"])
        with then_printed(lambda: found.json() if json else found.report()):
            if "done" not in outcomes:
                raise UserError("no run is done, so nothing is written" if out else "no run is done")
            if out:
                found.write(out)
    return 1 if "failed" in outcomes else 0
