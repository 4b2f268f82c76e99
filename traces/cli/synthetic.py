"""`finemoe traces synthetic`: draw a trace from stated statistics, or from those of another trace."""

from typing import Annotated

from cyclopts import Group

from common.commands import OUTPUT, under
from common.outputs import new, reserved
from traces.format.target import TraceTarget
from traces.synthetic.synthetic_settings import LengthSettings, ShapeSettings, StatisticsSettings

SHAPE = Group("Shape", sort_key=1, help="Of another trace, of a published model, or of the sizes given here.")
STATISTICS = Group(
    "Statistics",
    sort_key=2,
    help="FLOAT... is one number for all layers, or one for each with commas. "
    "Overlaps are shares of the executed experts.",
)
LENGTHS = Group("Lengths", sort_key=3, help="By default those of the trace that --like names, each once.")


def synthetic(
    *,
    shape: Annotated[ShapeSettings, under(SHAPE)] = ShapeSettings(),
    statistics: Annotated[StatisticsSettings, under(STATISTICS)] = StatisticsSettings(),
    lengths: Annotated[LengthSettings, under(LENGTHS)] = LengthSettings(),
    target: Annotated[TraceTarget, under(OUTPUT)],
) -> None:
    """Draw a trace, and show what was asked for and what came out."""
    with reserved(new(target.out, overwrite=target.overwrite)):
        from traces.synthetic.synthesis import synthesise
        from traces.synthetic.synthesis_report import report

        print(report(synthesise(shape, statistics, lengths, target)))
