"""Tables of runs for the implied testbed, made from formulas in place of simulations."""

from collections.abc import Callable, Mapping

import pandas as pd

from sim.paper.testbed.testbed_grid import GridOfTestbeds, PossibleTestbed
from sim.paper.testbed.testbed_runs import SYSTEMS

Figures = Mapping[str, float]
Formula = Callable[[PossibleTestbed, float, str, str, str], Figures]
"""From machine, cache in GB, model, system and form to times in ms and hit rates."""

MODELS = ("Mixtral", "Qwen", "Phi")
SMALL = GridOfTestbeds(link_gb_per_s=(8.0, 16.0, 32.0), layer_ms=(0.0, 4.0), cache_gb=(6.0, 12.0), requests=1)


def table_from(formula: Formula, grid: GridOfTestbeds = SMALL) -> pd.DataFrame:
    """A row per run of a grid, as `sim.paper.testbed.testbed_runs.table_of` gives it."""
    return pd.DataFrame(
        {
            "link_gb_per_s": testbed.link_gb_per_s,
            "layer_ms": testbed.layer_ms,
            "loading": testbed.loading,
            "cache_gb": cache_gb,
            "model": model,
            "prompts": "chat",
            "system": system.name,
            "form": system.form,
            **formula(testbed, cache_gb, model, system.name, system.form),
            "status": "done",
            "reason": None,
            "check": check,
        }
        for testbed, cache_gb, check in [
            *((testbed, cache_gb, False) for testbed in grid.testbeds() for cache_gb in grid.cache_gb),
            *((testbed, min(grid.cache_gb), True) for testbed in grid.checks()),
        ]
        for model in MODELS
        for system in SYSTEMS
    )
