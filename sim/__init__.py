"""Trace-driven discrete-event simulation of expert offloading.

from sim import Scenario, simulate
result = simulate(Scenario("pocket.trace", policy="lru", sizes="mixtral-8x7b"))
result.summary["tpot_s_mean"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.experiment import Experiment as Experiment
    from sim.results.result import Result as Result
    from sim.results.result import read_results as read_results
    from sim.scenario import CacheSize as CacheSize
    from sim.scenario import Scenario as Scenario
    from sim.simulation import simulate as simulate
    from sim.sweeps.comparison_run import compare_policies as compare_policies
    from sim.sweeps.sweep import Sweep as Sweep
    from sim.sweeps.sweep_run import run_sweep as run_sweep
    from sim.sweeps.workers import Workers as Workers

_PUBLIC = {
    "CacheSize": "sim.scenario",
    "Experiment": "sim.experiment",
    "Result": "sim.results.result",
    "Scenario": "sim.scenario",
    "compare_policies": "sim.sweeps.comparison_run",
    "Sweep": "sim.sweeps.sweep",
    "Workers": "sim.sweeps.workers",
    "read_results": "sim.results.result",
    "run_sweep": "sim.sweeps.sweep_run",
    "simulate": "sim.simulation",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import each name on first use, so that `finemoe sim run --help` loads neither pandas nor pyarrow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
