"""`finemoe sim plot`: draw a folder of results, or of a sweep."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import OVERWRITE

SWEEP = Group("Sweeps only", sort_key=10)


def plot(
    results: Annotated[
        Path,
        Parameter(
            help="A folder from `finemoe sim run --out`, `finemoe validate replay --out` or `finemoe sim sweep --out`."
        ),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Picture to write: FILE.png, .svg or .pdf.")],
    overwrite: Annotated[bool, Parameter(help=OVERWRITE.help)] = False,
    metric: Annotated[
        str | None,
        Parameter(group=SWEEP, help="Column of sweep.parquet to draw. Default: tpot_s_mean."),
    ] = None,
    over: Annotated[
        str | None,
        Parameter(group=SWEEP, help="Axis to draw it over, such as cache.share. Default: the first numeric axis."),
    ] = None,
    pareto: Annotated[
        bool,
        Parameter(group=SWEEP, help="Draw Pareto fronts: TPOT against expert memory, hit rates against bytes moved."),
    ] = False,
    stalls: Annotated[
        bool,
        Parameter(help="Draw where a mean iteration's time goes: computing, overhead and five kinds of waiting."),
    ] = False,
) -> None:
    """Draw a folder of results, and print the path of the picture.

    For the results of one scenario, draw time per output token and the outcome of every demand, a bar per policy. For a
    sweep, draw a metric over an axis, with a line per policy and a band over seeds, or, with `--pareto`, the sweep's
    Pareto fronts; each setting of the other axes is a panel. For both, `--stalls` draws where the time goes.
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
        raise FieldError(given[0], f"cannot be combined with `{picked}`")
    with reserved(picture(out), overwrite=overwrite):
        if not holds_sweep(results):
            if given:
                raise FieldError(given[0], f"needs the folder of a sweep; {results} is not one")
            (draw_split if stalls else draw)(read_compared(results), out)
        elif stalls:
            draw_stalls(Sweep.read(results), out)
        elif pareto:
            draw_pareto(Sweep.read(results), out)
        else:
            draw_axis(Sweep.read(results), out, metric=metric or "tpot_s_mean", axis=over)
    print(out)
