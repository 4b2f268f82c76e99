"""`finemoe traces synthetic`: generate a trace with given statistics, or with those of another trace."""

from typing import Annotated

from cyclopts import Group

from common.applications import OUTPUT, under
from traces.format.target import TraceTarget
from traces.synthetic.synthetic_settings import LengthSettings, ShapeSettings, StatisticsSettings

SHAPE = Group(
    "Shape",
    sort_key=1,
    help="The shape comes from another trace, from a published model, or from the sizes given here.",
)
STATISTICS = Group(
    "Statistics",
    sort_key=2,
    help="FLOAT... is one number for all layers, or one per layer, separated by commas. "
    "An overlap is the share of executed experts that two iterations have in common; chance is top-k / experts.",
)
LENGTHS = Group("Lengths", sort_key=3, help="With --like, the default is the lengths of that trace, each used once.")


def synthetic(
    *,
    shape: Annotated[ShapeSettings, under(SHAPE)] = ShapeSettings(),
    statistics: Annotated[StatisticsSettings, under(STATISTICS)] = StatisticsSettings(),
    lengths: Annotated[LengthSettings, under(LENGTHS)] = LengthSettings(),
    target: Annotated[TraceTarget, under(OUTPUT)],
) -> None:
    """Generate a trace, and compare its statistics with those requested."""
    with target.reserved(shape.like):
        from traces.synthetic.synthesis import synthesise
        from traces.synthetic.synthesis_report import report

        print(report(synthesise(shape, statistics, lengths, target)))
