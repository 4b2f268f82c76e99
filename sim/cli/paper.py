"""`finemoe sim paper`: the paper's tables and figures, and a verdict on each of its claims."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, OVERWRITE_NAMES, under
from sim.store_options import STORE, place_of_store
from sim.sweeps.workers import Workers

SIZE = Group(
    "Size",
    "Default: at most 32 prompts per run (the paper has 64), 8 in most sweeps; about an hour on 2 processors.",
    sort_key=20,
)
RUNS = Group("Runs", sort_key=40)


def paper(
    *,
    figure: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Tables and figures to make, such as 10, 14a, table-1, theory (paper §4.4) or testbed (the implied "
            "testbed); 3 stands for 3a, 3b and 3c. Verdicts are written only if all are made. Default: all.",
        ),
    ] = None,
    routing: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Traces of your own, each a folder NAME.trace; or twins, which records the small models that ship "
            "with the project. Default: twins.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        Parameter(
            group=SIZE,
            negative="",
            help="At most 8 prompts per run, 2 in most sweeps; about 10 minutes on 2 processors.",
        ),
    ] = False,
    kick_the_tires: Annotated[
        bool,
        Parameter(
            group=SIZE,
            negative="",
            help="1 or 2 prompts per run and few points per axis, to check that everything works; about a minute.",
        ),
    ] = False,
    store: Annotated[Path | None, STORE] = None,
    workers: Annotated[Workers, under(RUNS)] = Workers(),
    out: Annotated[
        Path,
        Parameter(
            group=OUTPUT, help="Folder to write: figures/, paper_vs_ours.md and .csv, implied_testbed.md, and routing/."
        ),
    ],
    overwrite: Annotated[bool, OVERWRITE_NAMES] = False,
) -> int:
    """Make the tables and figures of the FineMoE paper from simulations, and judge each of its claims.

    Runs in the store are not computed again, so the same command resumes after an interruption. The exit status is
    1 if a run failed.
    """
    from common.errors import FieldError, UserError
    from common.outputs import META, STORE_FILE, file, reserved
    from sim.paper.catalogue_of_figures import figures_named
    from sim.paper.reproduction import prepared_study, reproduce, written
    from sim.paper.tiers import TierName

    if quick and kick_the_tires:
        raise FieldError("quick", "cannot be combined with `kick_the_tires`")
    for name, given in (("figure", figure), ("routing", routing)):
        if given is not None and not given:
            raise FieldError(name, "needs a value")
    for name, what in ((META, "the output of another command"), (STORE_FILE, "a result store")):
        if (out / name).exists():
            raise UserError(f"{out} cannot be written: it has a {name}, so it is {what}")
    figures = figures_named(figure or [])
    tier: TierName = "quick" if quick else "kick-the-tires" if kick_the_tires else "full"
    with reserved(*map(file, written(figures, out)), overwrite=overwrite):
        study = prepared_study(tier, routing or [], out=out, store=place_of_store(store), workers=workers)
        report = reproduce(study, figures, out)
    print(report.text)
    return int(report.failed)
