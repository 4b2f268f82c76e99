"""`finemoe sim plot`: draw the comparison that a folder of results holds, or a sweep."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

SWEEP = Group("Of a sweep", sort_key=10)

_UNUSED = {"metric": "metrics of its own", "over": "no axis to go over", "pareto": "no fronts"}


def plot(
    results: Annotated[
        Path,
        Parameter(help="A folder that `sim run --out` or `validate replay --out` wrote, or one of a sweep."),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="The picture to write: .png, .svg or .pdf.")],
    metric: Annotated[
        str | None,
        Parameter(group=SWEEP, help="The column of sweep.parquet to draw (default: tpot_s_mean)."),
    ] = None,
    over: Annotated[
        str | None,
        Parameter(group=SWEEP, help="The axis to draw it over, such as cache.share (default: the first with numbers)."),
    ] = None,
    pareto: Annotated[
        bool,
        Parameter(group=SWEEP, help="Draw Pareto fronts: TPOT against expert memory, hit rates against bytes moved."),
    ] = False,
    stalls: Annotated[
        bool,
        Parameter(help="Draw where the time of a mean iteration goes: computing, overhead and five kinds of waiting."),
    ] = False,
) -> None:
    """Draw a folder of results, and print where the picture is.

    Results of one scenario: time per output token and the outcome of every demand, a bar per policy. A sweep: a metric
    over an axis, a line per policy with a band over seeds, or its Pareto fronts; other axes are panels. Of both,
    `--stalls` draws where the time goes.
    """
    from common.errors import FieldError
    from common.outputs import picture, reserved
    from sim.results.policy_figure import draw
    from sim.results.result import read_compared
    from sim.results.time_split_figure import draw_split
    from sim.sweeps.pareto_figure import draw_pareto
    from sim.sweeps.stall_figure import draw_stalls
    from sim.sweeps.sweep import Sweep, holds_sweep
    from sim.sweeps.sweep_figure import draw_axis

    chosen = {"metric": metric, "over": over, "pareto": pareto}
    given = [name for name, value in chosen.items() if value]
    if (picked := "stalls" if stalls else "pareto" if pareto else "") and given not in ([], [picked]):
        raise FieldError(given[0], f"the picture of `{picked}` has {_UNUSED[given[0]]}; leave one of them out")
    with reserved(picture(out)):
        if not holds_sweep(results):
            if given:
                raise FieldError(given[0], f"is for the folder of a sweep, which {results} is not")
            (draw_split if stalls else draw)(read_compared(results), out)
        elif stalls:
            draw_stalls(Sweep.read(results), out)
        elif pareto:
            draw_pareto(Sweep.read(results), out)
        else:
            draw_axis(Sweep.read(results), out, metric=metric or "tpot_s_mean", axis=over)
    print(out)
