"""Trace-driven discrete-event simulation of expert offloading.

from sim import Scenario, simulate
result = simulate(Scenario("pocket.trace", policy="lru", sizes="mixtral-8x7b"))
result.summary["tpot_s_mean"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.results.result import Result as Result
    from sim.scenario import CacheSize as CacheSize
    from sim.scenario import Scenario as Scenario
    from sim.simulation import simulate as simulate

_PUBLIC = {
    "CacheSize": "sim.scenario",
    "Result": "sim.results.result",
    "Scenario": "sim.scenario",
    "simulate": "sim.simulation",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that `python -m sim run --help` loads neither pandas nor pyarrow."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
