"""`python -m sim plot`: draw the comparison that a folder of results holds."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def plot(
    results: Annotated[Path, Parameter(help="A folder that `sim run --out` or `validate replay --out` wrote.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The picture to write: .png, .svg or .pdf.")],
) -> None:
    """Draw time per output token and the outcome of every demand, a bar per policy, and print where the picture is."""
    from common.outputs import picture, reserved
    from sim.results.policy_figure import draw
    from sim.results.result import read_results

    with reserved(picture(out)):
        draw(read_results(results), out)
    print(out)
