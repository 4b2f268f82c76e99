"""The runs of the implied testbed: every system on every machine and cache of a grid, and their tidy table."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from sim.paper.case import Case
from sim.paper.figures.run_columns import labelled, summary_column, times_ms
from sim.paper.paper_systems import (
    DEEPSPEED,
    FINEMOE,
    MIXTRAL_OFFLOADING,
    MOE_INFINITY,
    OTHER_FORMS,
    PROMOE,
    PaperSystem,
)
from sim.paper.study import ENDS, Study
from sim.paper.testbed.testbed_grid import ACTIVATED_EXPERTS, READINGS, WHOLE_LAYERS, GridOfTestbeds

FINEMOE_ALONE, PROMOE_ALONE = (replace(each, form="") for each in (FINEMOE, PROMOE))
SYSTEMS: Sequence[PaperSystem] = (
    FINEMOE_ALONE,
    PROMOE_ALONE,
    MOE_INFINITY,
    MIXTRAL_OFFLOADING,
    *(each for each in OTHER_FORMS if each.name in READINGS),
    replace(DEEPSPEED, form=WHOLE_LAYERS),
    # Unlike the paper's description: copies only demanded experts, and keeps them while there is room.
    PaperSystem(name=DEEPSPEED.name, form=ACTIVATED_EXPERTS, text="lru", is_main=False),
)
"""The paper's five systems, with the second forms of three. The others have one form here, which needs no name."""

MACHINE = ["link_gb_per_s", "layer_ms", "loading"]
TRACE = ["model", "prompts"]
LABELS = [*MACHINE, "cache_gb", *TRACE, "system", "form"]
FIGURES = ["ttft_ms", "tpot_ms", "hit_rate", "hit_or_late_rate"]
CHECK = "check"
"""The column that marks rows that check the interpolation and are not points of the grid."""


def cases_of(study: Study, grid: GridOfTestbeds) -> list[Case]:
    """A run per machine, cache, system and trace of the first set of prompts, then the checks."""
    points = [(testbed, cache_gb, False) for testbed in grid.testbeds() for cache_gb in grid.cache_gb]
    checks = [(testbed, min(grid.cache_gb), True) for testbed in grid.checks()]
    return [
        study.case(
            trace,
            system.policy(trace),
            machine=testbed.machine,
            cache_gb=cache_gb,
            requests=grid.requests,
            link_gb_per_s=testbed.link_gb_per_s,
            layer_ms=testbed.layer_ms,
            loading=testbed.loading,
            system=system.name,
            form=system.form,
            check=check,
        )
        for trace in study.of_first_prompts()
        for testbed, cache_gb, check in points + checks
        for system in SYSTEMS
    ]


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run: `LABELS`, `FIGURES` (times in ms, hit rates as shares, or NaN), status, reason, `CHECK`."""
    table = runs.reindex(columns=LABELS)
    table[["ttft_ms", "tpot_ms"]] = times_ms(runs)
    for rate in ("hit_rate", "hit_or_late_rate"):
        table[rate] = summary_column(runs, rate)
    table[[*ENDS]] = labelled(runs, ())
    table[CHECK] = runs[CHECK].astype(bool)
    return table


def of_grid(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are points of the grid."""
    return table[~table[CHECK]]
