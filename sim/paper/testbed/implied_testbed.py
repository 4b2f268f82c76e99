"""Find the testbeds that are consistent with the paper's numbers, and the numbers that no testbed meets together.

    cases = cases_of(study, GridOfTestbeds(link_gb_per_s=(8.0, 32.0), layer_ms=(0.0, 8.0), cache_gb=(6.0,), requests=1))
    table = table_of(study.run(cases))       # a row per run: machine, cache, trace, system, times in ms, hit rates
    found = points(refined(table))           # [points, numbers]: FineMoE's changes, shares
    meets = met(found, 0.10)                 # [points, numbers]: within 10 percentage points of the paper?
    feasible_shares(meets)                   # the region of each number, axis by axis
    best_points(found, 0.10)                 # which points meet most
    cannot_hold_together(meets)              # sets of numbers that no point meets together
    draw_testbed(table)                      # the picture

The grids of the command are in `testbed_grid.py`; `testbed_fit.py` defines a point.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from typing_extensions import override

from sim.paper.case import Case
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.testbed.testbed_grid import grid_of
from sim.paper.testbed.testbed_runs import cases_of, table_of


class ImpliedTestbed(PaperFigure):
    """Which testbeds give the numbers of the paper's figures 10 and 12."""

    key = "testbed"
    title = "Testbeds that are consistent with figures 10 and 12"
    settings = (
        "Means over the models, first set of prompts, batch 1, one test request of each model. Values between the "
        "simulated points (white) are interpolated. Above, every cell shows its best cache and reading."
    )

    @override
    def cases(self, study: Study) -> Sequence[Case]:
        return cases_of(study, grid_of(study.tier))

    @override
    def table(self, study: Study, runs: pd.DataFrame) -> pd.DataFrame:
        """A row per run: machine, cache, trace, system and form, times in ms, hit rates."""
        return table_of(runs)

    @override
    def draw(self, table: pd.DataFrame) -> Any:
        from sim.paper.testbed.testbed_figure import draw_testbed

        return draw_testbed(table)
