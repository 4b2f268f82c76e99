"""`finemoe sim sweep`: run every combination of an experiment, or show what would run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE, under
from sim.store_options import STORE, check_apart, place_of_store
from sim.sweeps.workers import Workers

SWEEP = Group("Sweep", sort_key=40)


def sweep(
    experiment: Annotated[Path, Parameter(help="A TOML file with a scenario and the axes along which it varies.")],
    /,
    *,
    store: Annotated[Path | None, STORE] = None,
    references: Annotated[
        str,
        Parameter(
            group=SWEEP,
            help="Reference runs to compare with, separated by commas: no-offload, best-known (the fastest of "
            "clairvoyant and perfect prefetch), own-cache (each policy's cache without prefetching), lower-bound, "
            "regret (each policy with perfect prediction, and with perfect eviction); or none. Each runs once, unless "
            "it is in the store.",
        ),
    ] = "no-offload,best-known,own-cache",
    workers: Annotated[Workers, under(SWEEP)] = Workers(),
    dry_run: Annotated[
        bool,
        Parameter(
            group=SWEEP, help="Print the planned runs, the refused runs with the reasons, and an estimate of the time."
        ),
    ] = False,
    status: Annotated[
        bool,
        Parameter(group=SWEEP, help="Print the progress of this sweep; works from another terminal, too."),
    ] = False,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write a table, one row per run, into this new folder.")
    ] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a JSON list of objects, one per run.")] = False,
) -> int:
    """Run every combination of an experiment that is not in the store yet, and compare the policies.

    A refused or failed run is reported at the end and does not stop the others. Run the same command again to resume.
    The exit status is 1 if a run failed, and 2 if no run finished. With --dry-run it is 2 if every run is refused, and
    otherwise 0.
    """
    from common.errors import FieldError, UserError
    from common.outputs import folder, reserved, then_printed
    from sim.experiment import Experiment
    from sim.sweeps.reference_runs import references_named
    from sim.sweeps.sweep import SWEEP_FILES
    from sim.sweeps.sweep_run import run_sweep
    from sim.sweeps.sweep_status import dry_run_report, status_report

    wanted = references_named(references)
    described = Experiment.read(experiment)
    place = place_of_store(store)
    given = [name for name, value in (("dry_run", dry_run), ("status", status), ("out", out), ("json", json)) if value]
    if given[1:] and given[0] in ("dry_run", "status"):
        raise FieldError(given[1], f"cannot be combined with `{given[0]}`")
    if dry_run or status:
        possible = True
        if dry_run:
            text, possible = dry_run_report(described, place, wanted, workers)
        else:
            text = status_report(described, place, wanted, workers)
        print(text)
        return 0 if possible else 2
    check_apart(place, out)
    with reserved(folder(out, SWEEP_FILES), overwrite=overwrite):
        found = run_sweep(described, store=place, references=wanted, workers=workers)
        outcomes = set(found.frame["status"])
        with then_printed(lambda: found.json() if json else found.report(), out, quiet=json):
            if "done" not in outcomes:
                raise UserError("no run finished, so nothing is written" if out else "no run finished")
            if out:
                found.write(out, overwrite=overwrite)
    return 1 if "failed" in outcomes else 0
