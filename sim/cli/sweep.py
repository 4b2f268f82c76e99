"""`python -m sim sweep`: run every combination of an experiment, or say what that would be."""

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from common.commands import FLAT, OUTPUT
from sim.store_options import STORE, place_of_store
from sim.sweeps.workers import Workers

if TYPE_CHECKING:
    import pandas as pd

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
            help="What the runs are measured against, run too where the store does not have it: no-offload, "
            "clairvoyant, lower-bound and regret (each policy with perfect prediction, and with perfect eviction), "
            "separated by commas, or none.",
        ),
    ] = "no-offload,clairvoyant",
    workers: Annotated[Workers, FLAT] = Workers(),
    dry_run: Annotated[
        bool, Parameter(group=SWEEP, help="Print the runs, those that cannot be and why, and the time it would take.")
    ] = False,
    status: Annotated[
        bool,
        Parameter(group=SWEEP, help="Print how far this sweep is, running elsewhere or killed."),
    ] = False,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write the table, a row per run, into this new folder.")
    ] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a list of objects, one per run.")] = False,
) -> None:
    """Run every combination of an experiment that the store does not have yet, and compare the policies.

    A run that cannot be or that fails is reported at the end and stops no other. Stopped or killed, the same command
    goes on where it was.
    """
    from common.outputs import new, reserved, then_printed
    from sim.experiment import Experiment
    from sim.sweeps.reference_runs import references_named
    from sim.sweeps.sweep_run import run_sweep
    from sim.sweeps.sweep_status import dry_run_report, status_report

    wanted = references_named(references)
    described = Experiment.read(experiment)
    place = place_of_store(store)
    if dry_run or status:
        print((dry_run_report if dry_run else status_report)(described, place, wanted, workers))
        return
    with reserved(new(out)):
        found = run_sweep(described, store=place, references=wanted, workers=workers)
        with then_printed(lambda: _objects(found.frame) if json else found.report()):
            if out:
                found.write(out)


def _objects(frame: "pd.DataFrame") -> str:
    rows = json_text.loads(frame.to_json(orient="records", double_precision=15))
    return json_text.dumps(rows, indent=2)
