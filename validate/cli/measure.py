"""`finemoe validate measure`: measure the figures of this machine, as a data sheet to simulate any model with."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.applications import FLAT, OVERWRITE
from validate.rates.rate_settings import RATE_FILES, SHEET, RateSettings


def measure(
    *,
    out: Annotated[Path, Parameter(help="Folder to write: the data sheet, and the measurements behind it.")],
    overwrite: Annotated[bool, Parameter(help=OVERWRITE.help)] = False,
    settings: Annotated[RateSettings | None, FLAT] = None,
) -> None:
    """Measure the rates of this machine, write them as a data sheet, and print the main ones.

    `finemoe sim run --machine OUT/machine.toml` simulates any model with it.
    """
    from common.outputs import folder, reserved, then_printed

    with reserved(folder(out, RATE_FILES), overwrite=overwrite):
        from validate.rates.rate_measurements import measure as measured
        from validate.rates.rate_sheet import error_summary, summary, write_rates

        found = measured(settings or RateSettings())
        with then_printed(lambda: summary(found)):
            rows = write_rates(out, found, overwrite=overwrite)
        print(error_summary(rows))
        print(f"wrote {out / SHEET}")
