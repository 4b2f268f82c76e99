"""`python -m validate measure`: measure the figures of this machine, as a data sheet to simulate any model with."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.commands import FLAT
from validate.figures.figure_settings import FigureSettings


def measure(
    *,
    out: Annotated[Path, Parameter(help="The new folder for the data sheet and the measurements behind it.")],
    settings: Annotated[FigureSettings | None, FLAT] = None,
) -> None:
    """Measure the figures of this machine, write them as a data sheet, and print the main ones.

    `sim run --machine OUT/machine.toml` simulates any model with it.
    """
    from common.outputs import new, reserved, then_printed

    with reserved(new(out)):
        from validate.figures.figure_sheet import SHEET, errors, summary, write_figures
        from validate.figures.measured_figures import measure as measured

        found = measured(settings or FigureSettings())
        with then_printed(lambda: summary(found)):
            rows = write_figures(out, found)
        print(errors(rows))
        print(out / SHEET)
