"""`finemoe validate compare`: simulated beside measured results, with the simulation's errors."""

import json as json_text
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.applications import OVERWRITE
from common.errors import FieldError
from common.settings import check_suffix


def compare(
    simulated: Annotated[Path, Parameter(help="A folder from `finemoe sim run --out`.")],
    measured: Annotated[Path, Parameter(help="A folder from `finemoe validate replay --out`.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Print a JSON list of objects, one per policy and metric.")] = False,
    brief: Annotated[bool, Parameter(help="Print only times, hit rates and traffic, in one table.")] = False,
    out: Annotated[
        Path | None, Parameter(help="Write the comparison to FILE.parquet, one row per policy and metric.")
    ] = None,
    overwrite: Annotated[bool, Parameter(help=OVERWRITE.help)] = False,
    plot: Annotated[
        Path | None,
        Parameter(
            help="Draw an iteration's simulated and measured timelines to FILE.png; both runs need --detail events."
        ),
    ] = None,
    iteration: Annotated[
        int | None, Parameter(help="Iteration to draw. Default: the decode step with the median measured time.")
    ] = None,
) -> None:
    """Print simulated beside measured figures, with absolute and relative errors."""
    from common.files import replacing
    from common.folding import folded
    from common.outputs import picture, reserved, table, then_printed
    from common.parquet import write_frame
    from sim.results.result import read_meta
    from validate.comparison.error_table import (
        agreement,
        brief_text,
        cautions,
        heading,
        notes,
        objects,
        routing_of,
        text,
    )
    from validate.comparison.errors_by_metric import errors_of
    from validate.comparison.matching import Folder, match
    from validate.comparison.timelines import draw, logs_of, typical_iteration

    check_suffix("out", out, ".parquet")
    if iteration is not None and not plot:
        raise FieldError("iteration", "has no effect without `plot`")
    with reserved(table(out, "metric", "simulated", "measured"), picture(plot), overwrite=overwrite):
        here, there = Folder.read(simulated), Folder.read(measured)
        match(here, there)
        compared = errors_of(here.summary, there.summary)
        if plot:
            logs = [logs_of(folder, list(dict.fromkeys(compared["policy"]))) for folder in (here, there)]
            drawn = typical_iteration(logs[1]) if iteration is None else iteration

        def printed() -> str:
            if json:
                return json_text.dumps(objects(compared), indent=2)
            shown = brief_text if brief else text
            explained = folded(agreement(compared, here, there))
            return f"{heading(here, there)}\n{shown(compared, here, there)}\n\n{explained}".rstrip()

        with then_printed(printed, out, plot, quiet=json or brief):
            if plot:
                draw(logs[0], logs[1], drawn, plot, title="\n".join([routing_of(here), *cautions(here)]))
            if out:
                with replacing(out, "the comparison") as partial:
                    write_frame(partial, compared, {"simulated": read_meta(simulated), "measured": read_meta(measured)})
    for note in notes(here.summary, there.summary):
        print(note, file=sys.stderr if json else sys.stdout)
